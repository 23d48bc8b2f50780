"""A made CIFAR-10 of a few images as official files and archive, and a misbehaving site."""

import hashlib
import io
import pickle
import tarfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from repro.data import cifar10_files
from repro.data.cifar10_files import FOLDER

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True)
class Made:
    """A data set of 2 training batches and a test batch, 3 images each, as official files and archive."""

    arrays: dict[str, np.ndarray]
    files: dict[str, bytes]
    archive: bytes
    hashes: dict[str, str]

    def write(self, root: Path) -> Path:
        """Write the official folder below `root`."""
        folder = root / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
        return folder

    def same(self, loaded: object) -> bool:
        """Whether loaded arrays are the made ones."""
        return all(np.array_equal(getattr(loaded, name), self.arrays[name]) for name in ARRAYS)


def make() -> Made:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (3, 3, 3, 32, 32), np.uint8)
    labels = generator.integers(0, 10, (3, 3), np.uint8)
    arrays = dict(zip(ARRAYS, (np.concatenate(images[:2]), np.concatenate(labels[:2]), images[2], labels[2]),
                      strict=True))
    names = ("data_batch_1", "data_batch_2", "test_batch")
    files, hashes, archive = {}, {}, io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, pixels, numbers in zip(names, images, labels, strict=True):
            files[name] = pickle.dumps({"data": pixels.reshape(3, 3072), "labels": numbers.tolist()}, 4)
            hashes[name] = hashlib.sha256(pixels.tobytes() + numbers.tobytes()).hexdigest()
            info = tarfile.TarInfo(f"{FOLDER}/{name}")
            info.size = len(files[name])
            tar.addfile(info, io.BytesIO(files[name]))
    return Made(arrays, files, archive.getvalue(), hashes)


MADE = make()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """The made data set, which counts as the official one."""
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(MADE.archive).hexdigest())
    monkeypatch.setattr(cifar10_files, "BATCHES", MADE.hashes)
    monkeypatch.setattr(cifar10_files, "SILENCE", 0.3)
    return MADE


@pytest.fixture
def site(made, monkeypatch):
    """A web site on this machine that serves the archive in the way that its `mode` says; `asked` counts."""
    state, released = SimpleNamespace(mode="good", asked=0), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            state.asked += 1
            with suppress(BrokenPipeError, ConnectionResetError):
                if state.mode == "404":
                    self.send_error(404)
                elif state.mode == "silent":
                    released.wait(10)
                else:
                    payload = b"<!DOCTYPE html><title>Log in</title>" if state.mode == "html" else made.archive
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(payload)))
                    self.end_headers()
                    self.wfile.write(payload[: len(payload) // 2] if state.mode == "cut" else payload)

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz"
    monkeypatch.setattr(CIFAR10, "url", state.url)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state
    released.set()
    server.shutdown()
    thread.join()
    server.server_close()
