"""What the record says of where a number comes from."""

import subprocess

import pytest

from repro import provenance
from repro.provenance import slurm_job


def test_a_session_under_slurm_names_the_job_and_its_restarts(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    assert slurm_job() == {"slurm": {"job_id": "4711", "restarts": 0}}, "SLURM sets no count before the first restart"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert slurm_job() == {"slurm": {"job_id": "4711", "restarts": 2}}
    monkeypatch.delenv("SLURM_JOB_ID")
    assert slurm_job() == {}


@pytest.fixture
def traveled(tmp_path, monkeypatch):
    """A tree without its repository, as it is packed: its files, and COMMIT beside them."""
    (tmp_path / "repro").mkdir()
    (tmp_path / "repro" / "one.py").write_text("one = 1\n")
    (tmp_path / "a file.md").write_text("words\n")
    sums = subprocess.run(["sha256sum", "repro/one.py", "a file.md"], cwd=tmp_path, capture_output=True, text=True,
                          check=True).stdout
    (tmp_path / "COMMIT").write_text(f"{'c0ffee12' * 5}\n{sums}")
    monkeypatch.setattr(provenance, "TREE", tmp_path)
    monkeypatch.setattr(provenance, "in_tree", lambda: True)
    return tmp_path


def code():
    found = provenance.code_version()
    return found["commit"], found["dirty"]


def test_a_tree_that_traveled_names_the_commit_that_was_packed(traveled):
    assert code() == ("c0ffee12" * 5, False)
    (traveled / "new.txt").write_text("git does not know it either")
    assert code() == ("c0ffee12" * 5, False)


@pytest.mark.parametrize("change", [lambda tree: (tree / "a file.md").write_text("other words\n"),
                                    lambda tree: (tree / "repro" / "one.py").unlink()])
def test_a_file_that_differs_from_the_commit_is_told(change, traveled):
    change(traveled)
    assert code() == ("c0ffee12" * 5, True)


def test_what_is_no_list_of_a_commit_says_nothing(traveled):
    for content in (b"", b"c0ffee\n", f"{'c0ffee12' * 5}\n".encode(), f"{'c0ffee12' * 5}\nno sum\n".encode(), b"\xff"):
        (traveled / "COMMIT").write_bytes(content)
        assert code() == (None, None)
    (traveled / "COMMIT").unlink()
    assert code() == (None, None)


@pytest.mark.fault(45)
def test_changes_are_recorded_and_the_commit_of_a_repository_around_the_tree_is_not_ours(traveled):
    (traveled / "COMMIT").unlink()
    git = ["git", "-c", "user.name=nobody", "-c", "user.email=nobody@example.invalid", "-C", str(traveled)]
    inner = traveled / "inner"
    inner.mkdir()
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    commit, dirty = code()
    assert (len(commit), dirty) == (40, False)
    (traveled / "a file.md").write_text("changed")
    assert code() == (commit, True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "TREE", inner)
        assert code() == (None, None)
