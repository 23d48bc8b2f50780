"""Packs that are damaged or made to do harm: exit 3, one line, and nothing is written anywhere."""

import json
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repro.errors import DataError
from repro.packing.unpack import unpack
from tests.outcome import says
from tests.packing import made
from tests.packing.made import NAME, files, made_pack, manifest_of, member, tar_of, tree, write_pack, write_run


@pytest.fixture
def refused(direct, tmp_path):
    """`refused(*words)`: the folder `pack` is refused with exit 3 and these words, and nothing else has changed."""
    def check(*words: str) -> None:
        before = tree(tmp_path)
        outcome = direct("unpack", "pack")
        says(outcome, 3, *words)
        assert len(outcome.err.splitlines()) == 1
        assert tree(tmp_path) == before
        assert not (tmp_path / "results").exists()
    return check


def test_what_these_tests_make_is_taken_where_nothing_is_wrong(direct, tmp_path):
    """Negative control for all that follows."""
    made_pack(tmp_path / "pack", files(20))
    assert direct("unpack", "pack").code == 0


# ---- parts

@pytest.mark.parametrize("part", ["pack-000", "pack-001", "last"])
@pytest.mark.parametrize("damage", ["missing", "cut", "longer", "flipped", "a folder"])
def test_a_damaged_part_is_named_with_what_was_expected(refused, tmp_path, part, damage):
    pack = made_pack(tmp_path / "pack", files(20, "finished"), part_size=1500)
    path = sorted(pack.glob("pack-*"))[-1] if part == "last" else pack / part
    data = path.read_bytes()
    described, = [entry for entry in json.loads((pack / "manifest.json").read_text())["parts"]
                  if entry["name"] == path.name]
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"cut": data[:-1], "longer": data + b"x", "flipped": bytes([data[0] ^ 1]) + data[1:]}[damage])
    refused(f"pack/{path.name} ", {"missing": "is missing", "a folder": "is missing", "flipped": "is damaged"}.get(
        damage, f"has {len(data) + (1 if damage == 'longer' else -1)} bytes"),
        f"expected: {len(data)} bytes, sha256 {described['sha256'][:12]}")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_byte_of_any_file_of_a_pack_is_refused_or_changes_nothing(tmp_path_factory, data):
    """In a part it is always refused; in the manifest what is unpacked in spite of it is what was packed."""
    folder = tmp_path_factory.mktemp("flipped")
    pack = made_pack(folder / "pack", files(10))
    path = data.draw(st.sampled_from(sorted(pack.iterdir())))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    refused = None
    try:
        unpack(pack, folder / "results", lambda line: None)
    except DataError as error:
        refused = error
    if refused is None:
        assert path.name == "manifest.json"
        assert tree(folder / "results" / "runs" / NAME) == files(10)
    else:
        assert not list(folder.glob("results/runs/*"))


# ---- the manifest

def test_a_folder_that_is_no_pack(refused, direct, tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "pack-000").write_bytes(b"cut off before its manifest")
    refused("pack/manifest.json is not there: not a pack, or one that was not written to its end")
    says(direct("unpack", "nowhere"), 3, "nowhere/manifest.json is not there")
    (tmp_path / "file").touch()
    says(direct("unpack", "file"), 3, "file/manifest.json is not there")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '{"format": 1}', "\xff", "[" * 100_000,
                                  '{"format": 1, "parts": [], "runs": 3}', '{"format": 1, "parts": [1], "runs": []}',
                                  '{"format": 1, "parts": [], "runs": []}', '{"format": 1, "parts": {"a": 1}}'])
def test_a_manifest_that_is_none(refused, tmp_path, text):
    pack = made_pack(tmp_path / "pack", files(10))
    (pack / "manifest.json").write_text(text, encoding="latin-1")
    refused("pack/manifest.json: not admitted")


def test_a_pack_of_a_later_format(refused, tmp_path):
    pack = made_pack(tmp_path / "pack", files(10))
    path = pack / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    refused("a pack of format 2; this version reads 1")


RUN_NAMES = ["../seed0", "/tmp/seed0", "cifar_resnet20/../seed0", "cifar_resnet20@0123456789ab/seed0/..", "seed0", "",
             "cifar_resnet20@0123456789ab/seed0/", "./cifar_resnet20@0123456789ab/seed0", ".hidden/seed0", 5, None,
             "cifar_resnet20@0123456789ab/seed1", "cifar_resnet20@0123456789ab/seed00", "cifar_plain20/seed0",
             "cifar_resnet20@ffffffffffff/seed0", "cifar_resnet20@../seed0", "cifar_resnet20\n/seed0", "\ud800/seed0",
             "cifar_resnet20@0123456789ab\\seed0", "cifar_resnet20/seed0\n", "cifar_resnet20/seed\u0660", "a\0b/seed0"]


@pytest.mark.parametrize("name", RUN_NAMES)
def test_a_run_that_is_not_named_like_one_is_refused(refused, tmp_path, name):
    made_pack(tmp_path / "pack", files(10), name=name)
    refused("pack/manifest.json: not admitted")


FILE_NAMES = ["../x.csv", "/tmp/x.csv", "sub/x.csv", "..", ".", "", "run.lock", ".run.json.part", "x.csv\n", "x.py",
              "tensorboard", "checkpoint-1.pt", "checkpoint-00000001.pt.1", "checkpoint-00000001.pt.000.part",
              "weights.pt/x", "a b.csv", "x.csv\0", "x\\y.csv", "evaluations/other.json",
              "evaluations/center.lock/run.lock", "evaluations/../center.json", "evaluations/x/center.json"]


@pytest.mark.parametrize("name", FILE_NAMES)
def test_a_file_that_no_run_has_is_refused(refused, tmp_path, name):
    content = files(10) | {name: b"x"}
    tar = tar_of(*(member(f"{NAME}/{key}", data) for key, data in content.items()))
    write_pack(tmp_path / "pack", manifest_of(content, tar, 10**6), tar)
    refused("pack/manifest.json: not admitted", "is no file of a run")


@pytest.mark.parametrize("changes", [
    {"seed": "0"}, {"seed": False}, {"iteration": None}, {"iteration": 1.5}, {"files": None}, {"extra": 1},
    {"experiment": 1}, {"seed": 1}, {"identity": "ffffffffffff"}, {"experiment": "cifar_plain20"},
    {"files": [{"name": "run.json", "bytes": -1, "sha256": ""}]}, {"files": [{"name": "run.json"}]},
    {"files": [{"name": "run.json", "bytes": True, "sha256": ""}]}, {"files": []},
    {"files": [{"name": "run.json", "bytes": 10**18, "sha256": ""}]},
    {"files": [{"name": "run.json", "bytes": 1, "sha256": None}]}])
def test_a_run_that_is_not_described_rightly_is_refused(refused, tmp_path, changes):
    made_pack(tmp_path / "pack", files(10), **changes)
    refused("pack/manifest.json: not admitted")


@pytest.mark.parametrize("changes", [{"status": "finished"}, {"iteration": 19}])
def test_a_manifest_that_does_not_agree_with_the_packed_record_is_refused(direct, tmp_path, changes):
    write_run(tmp_path / "results", files(5))
    made_pack(tmp_path / "pack", files(10), **changes)
    before = tree(tmp_path)
    says(direct("unpack", "pack"), 3, "of another run or state than the manifest says")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("content", [
    files(20, "finished") | {"history.csv": b"torn"}, files(10) | {"run.json": files(10)["run.json"] + b"}"}])
def test_a_packed_record_that_is_not_whole_is_refused(direct, tmp_path, content):
    write_run(tmp_path / "results", files(5))
    good = files(20, "finished") if b"finished" in content["run.json"] else files(10)
    tar = tar_of(*(member(f"{NAME}/{name}", data) for name, data in content.items()))
    manifest = manifest_of(good, tar, 1000)
    manifest["runs"][0]["files"] = [made.described(name, data) for name, data in content.items()]
    write_pack(tmp_path / "pack", manifest, tar)
    before = tree(tmp_path)
    says(direct("unpack", "pack"), 3, "the packed record is not whole")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("names", [["pack-001", "pack-000"], ["../pack-000", "pack-001"], ["/etc/passwd", "pack-001"],
                                   ["pack-000", "pack-000"], [None, "pack-001"], ["pack-0", "pack-1"]])
def test_parts_have_their_names_and_no_others(refused, tmp_path, names):
    pack = made_pack(tmp_path / "pack", files(10), part_size=4000)
    value = json.loads((pack / "manifest.json").read_text())
    assert len(value["parts"]) == 2
    for part, name in zip(value["parts"], names, strict=True):
        part["name"] = name
    (pack / "manifest.json").write_text(json.dumps(value))
    refused("its parts are not pack-000, pack-001, ...")


@pytest.mark.parametrize("twice", ["file", "run"])
def test_no_name_comes_twice(refused, tmp_path, twice):
    pack = made_pack(tmp_path / "pack", files(10))
    value = json.loads((pack / "manifest.json").read_text())
    if twice == "file":
        value["runs"][0]["files"].append(value["runs"][0]["files"][0])
    else:
        value["runs"].append(value["runs"][0] | {"files": []})
    (pack / "manifest.json").write_text(json.dumps(value))
    refused("a name comes twice")


# ---- the tar

CONTENT = files(10)
HONEST = {name: member(f"{NAME}/{name}", data) for name, data in CONTENT.items()}
EVIL = {
    "a symbolic link": {"history.csv": member(f"{NAME}/history.csv", CONTENT["history.csv"], type=tarfile.SYMTYPE,
                                              linkname="/etc/passwd")},
    "a hard link": {"history.csv": member(f"{NAME}/history.csv", CONTENT["history.csv"], type=tarfile.LNKTYPE,
                                          linkname=f"{NAME}/run.json")},
    "a folder": {"history.csv": member(f"{NAME}/history.csv", CONTENT["history.csv"], type=tarfile.DIRTYPE)},
    "a device": {"history.csv": member(f"{NAME}/history.csv", CONTENT["history.csv"], type=tarfile.CHRTYPE)},
    "a pipe": {"history.csv": member(f"{NAME}/history.csv", CONTENT["history.csv"], type=tarfile.FIFOTYPE)},
    "a sparse file": {"history.csv": member(f"{NAME}/history.csv", CONTENT["history.csv"],
                                            type=tarfile.GNUTYPE_SPARSE)},
    "an extended header": {"history.csv": member(f"{NAME}/history.csv", CONTENT["history.csv"],
                                                 type=tarfile.XHDTYPE)},
    "a name that goes up": {"history.csv": member(f"{NAME}/../history.csv", CONTENT["history.csv"])},
    "an absolute name": {"history.csv": member("/tmp/history.csv", CONTENT["history.csv"])},
    "another run's name": {"history.csv": member("cifar_resnet20/seed1/history.csv", CONTENT["history.csv"])},
    "a larger size": {"history.csv": (member(f"{NAME}/history.csv", bytes(512))[0], CONTENT["history.csv"])},
    "a smaller size": {"history.csv": (member(f"{NAME}/history.csv", b"1")[0], CONTENT["history.csv"])},
    "another content": {"history.csv": member(f"{NAME}/history.csv", CONTENT["history.csv"][::-1])},
    "another order": {"history.csv": HONEST["run.json"], "run.json": HONEST["history.csv"]},
}


@pytest.mark.parametrize("case", EVIL)
def test_a_tar_that_holds_something_else_than_its_manifest_names_is_refused(refused, tmp_path, case):
    tar = tar_of(*(HONEST | EVIL[case]).values())
    write_pack(tmp_path / "pack", manifest_of(CONTENT, tar, 1500), tar)
    refused("the hash that the manifest names" if case == "another content" else "the parts do not hold")


@pytest.mark.parametrize("hidden", [member("../evil.py", b"x"), member(f"{NAME}/evil.csv", b"x"),
                                    member("/tmp/evil", b"x")])
@pytest.mark.parametrize("first", [True, False])
def test_a_file_more_than_the_manifest_names_is_refused(refused, tmp_path, hidden, first):
    members = [hidden, *HONEST.values()] if first else [*HONEST.values(), hidden]
    tar = tar_of(*members)
    write_pack(tmp_path / "pack", manifest_of(CONTENT, tar, 1500), tar)
    refused("sizes of its files and its parts do not fit")


@pytest.mark.parametrize("change", [lambda tar: tar[:-1] + b"x", lambda tar: b"garbage!" * (len(tar) // 8),
                                    lambda tar: bytes(len(tar)), lambda tar: tar[512:] + tar[:512]])
def test_a_stream_that_is_no_such_tar_is_refused(refused, tmp_path, change):
    tar = tar_of(*HONEST.values())
    assert len(change(tar)) == len(tar)
    write_pack(tmp_path / "pack", manifest_of(CONTENT, change(tar), 1500), change(tar))
    refused("the parts")


def test_nothing_outside_is_reached_by_links_in_the_pack_folder(direct, tmp_path):
    """A part may lie elsewhere, but a pack that is a link to a file of the system fails its hash."""
    pack = made_pack(tmp_path / "pack", CONTENT)
    path = pack / "pack-000"
    path.unlink()
    path.symlink_to("/etc/hostname" if Path("/etc/hostname").is_file() else os.devnull)
    says(direct("unpack", "pack"), 3, "pack/pack-000 ")
