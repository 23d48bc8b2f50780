"""`repro verify`: a line for each check as it ends, a summary, JSON, exit codes."""

import json
from pathlib import Path

import pytest

from repro.verification import checks
from repro.verification.check import Check, Difference, Mismatch, Skipped
from tests.outcome import says


def failing():
    raise Mismatch([Difference("one and one", 2, 3)])


def absent():
    raise Skipped("no data")


@pytest.fixture
def use(monkeypatch):
    """Put these checks in the place of all; the folder that the command names is returned by the list `roots`."""
    roots: list[Path] = []

    def put(*made):
        monkeypatch.setattr(checks, "checks", lambda root: roots.append(root) or made)
        return roots
    return put


def test_all_is_well(use, direct, tmp_path):
    roots = use(Check("sums", lambda: "3 sums"), Check("data", absent))
    outcome = direct("verify", "data.root=somewhere")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines() == ["ok       sums: 3 sums  0.0 s", "skipped  data: no data  0.0 s",
                                        "1 of 2 checks ok, 0 failed, 1 skipped, in 0 s"]
    assert roots == [tmp_path / "somewhere"]


def test_what_fails_is_shown_named_and_exits_4(use, direct):
    use(Check("sums", failing), Check("data", lambda: "all of it"))
    outcome = direct("verify")
    says(outcome, 4, "this installation does not compute what it claims: sums")
    assert outcome.out.splitlines()[0] == "FAIL     sums: one and one: expected 2, found 3  0.0 s"
    assert outcome.out.splitlines()[-1].startswith("1 of 2 checks ok, 1 failed, 0 skipped")


def test_json(use, direct):
    use(Check("sums", failing), Check("data", absent))
    outcome = direct("verify", "--json")
    says(outcome, 4, "sums")
    content = json.loads(outcome.out)
    assert (content["ok"], content["failed"], content["skipped"]) == (0, 1, 1)
    assert content["checks"][0]["differences"] == [{"what": "one and one", "expected": "2", "found": "3"}]
    assert content["versions"]["torch"]
    assert "commit" in content


def test_a_misspelt_key(use, direct):
    use()
    says(direct("verify", "data.rot=x"), 2, "unknown key 'data.rot'; did you mean data.root?")
    says(direct("verify", "data.wiring_test=true"), 2, "unknown key 'data.wiring_test'")


def test_every_check_has_a_name_of_its_own(tmp_path):
    names = [check.name for check in checks.checks(tmp_path)]
    assert len(set(names)) == len(names) == 18


def test_the_quick_checks_from_the_command_line(direct, monkeypatch):
    """The real list, without those that take seconds: these have tests of their own."""
    every = checks.checks
    slow = {"golden parameter counts", "golden multiply-adds", "CIFAR-10 networks", "ImageNet networks", "exact resume",
            "committed tables", "schedule"}
    monkeypatch.setattr(checks, "checks", lambda root: [check for check in every(root) if check.name not in slow])
    outcome = direct("verify")
    assert outcome.code == 0, outcome
    assert outcome.out.splitlines()[-1].startswith("9 of 11 checks ok, 0 failed, 2 skipped")
