"""Made-up packs: a small run record, and packs whose manifest and tar say whatever a test wants."""

import functools
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from repro.config import compose, to_dict

NAME = "cifar_resnet20@0123456789ab/seed0"
HISTORY = "iteration,learning_rate,test_top1_error\n10,0.1,82.5\n20,0.1,61.25\n"


@functools.cache
def recorded() -> dict[str, Any]:
    """The configuration of a run of 20 iterations, evaluated every 10; not to be changed."""
    return to_dict(compose(["experiment=cifar_resnet20", "train.iterations=20", "train.lr_drops=[]",
                            "evaluation.interval=10", "machine.precision=fp32"]))


def record(iteration: int = 10, status: str = "interrupted", **changes: Any) -> dict[str, Any]:
    """The record of a run of 20 iterations, evaluated every 10."""
    result = {"iteration": 20, "learning_rate": 0.1, "test_top1_error": 61.25}
    return {"schema": 1, "experiment": "cifar_resnet20", "seed": 0, "identity": "0123456789ab", "status": status,
            "config": recorded(), "iterations": 20,
            "iteration": iteration, **({"result": result} if status == "finished" else {}), **changes}


def files(iteration: int = 10, status: str = "interrupted", **changes: Any) -> dict[str, bytes]:
    """The files of a run as content by name."""
    rows = HISTORY.splitlines(keepends=True)[: 1 + iteration // 10]
    found = {"run.json": json.dumps(record(iteration, status, **changes)).encode(),
             "history.csv": "".join(rows).encode()}
    if status == "finished":
        return found | {"weights.pt": b"weights" * 200}
    name = f"checkpoint-{iteration:08d}"
    return found | {f"{name}.json": b"{}", f"{name}.pt": b"state" * iteration}


def write_run(results: Path, content: dict[str, bytes], name: str = NAME) -> Path:
    """Write a run into a results folder and return its folder."""
    folder = results / "runs" / name
    folder.mkdir(parents=True)
    for file, data in content.items():
        (folder / file).write_bytes(data)
    return folder


def member(name: str, data: bytes = b"", **changes: Any) -> tuple[tarfile.TarInfo, bytes]:
    """An entry of a tar; `changes` are attributes of its header."""
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    for key, value in changes.items():
        setattr(entry, key, value)
    return entry, data


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A tar with two empty blocks at its end, as repro pack writes it."""
    return b"".join(entry.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512) for entry, data in members
                    ) + bytes(1024)


def manifest_of(content: dict[str, bytes], tar: bytes, part_size: int, **changes: Any) -> dict[str, Any]:
    """The manifest that fits a run's files and a tar."""
    parts = [tar[start : start + part_size] for start in range(0, len(tar), part_size)]
    own = json.loads(content["run.json"])
    run = {"name": NAME, "experiment": own["experiment"], "identity": own["identity"], "seed": own["seed"],
           "status": own["status"], "iteration": own["iteration"],
           "files": [described(name, data) for name, data in content.items()]}
    return {"format": 1, "repro": "0.1.0", "utc": "2026-01-01T00:00:00+00:00", "runs": [run | changes],
            "parts": [described(f"pack-{number:03d}", part) for number, part in enumerate(parts)]}


def described(name: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def write_pack(folder: Path, manifest: dict[str, Any], tar: bytes) -> Path:
    """Write the parts and the manifest, whatever they say."""
    folder.mkdir()
    stream = io.BytesIO(tar)
    for part in manifest["parts"]:
        if "/" not in part["name"]:
            (folder / part["name"]).write_bytes(stream.read(part["bytes"]))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def made_pack(folder: Path, content: dict[str, bytes], part_size: int = 1500, **changes: Any) -> Path:
    """A pack of one run as it should be."""
    tar = tar_of(*(member(f"{NAME}/{name}", data) for name, data in content.items()))
    return write_pack(folder, manifest_of(content, tar, part_size, **changes), tar)


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder with their content, empty folders as names that end in a slash."""
    return {str(path.relative_to(folder)) + ("/" if path.is_dir() else ""): b"" if path.is_dir() else path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file() or not any(path.iterdir())}
