"""Every fault of tests/faults.py has a test that injects it, and no test is marked with another one."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

from tests.faults import FAULTS

TESTS = Path(__file__).parent


def rows_of(mark: ast.expr) -> list[int]:
    """The numbers in `pytest.mark.fault(N, ...)`; [] for any other decorator."""
    if not isinstance(mark, ast.Call) or ast.unparse(mark.func) != "pytest.mark.fault":
        return []
    return [ast.literal_eval(argument) for argument in mark.args]


def marked(source: str) -> dict[int, list[str]]:
    """{row: names of the tests of this source that are marked with it}."""
    found: dict[int, list[str]] = defaultdict(list)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for row in (row for mark in node.decorator_list for row in rows_of(mark)):
                found[row].append(node.name)
    return found


@pytest.fixture(scope="module")
def tests_of() -> dict[int, list[str]]:
    """{row: FILE::TEST of all marked tests}."""
    found: dict[int, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        for row, names in marked(path.read_text(encoding="utf-8")).items():
            found[row] += [f"{path.relative_to(TESTS)}::{name}" for name in names]
    return found


def test_the_faults_are_in_order():
    assert list(FAULTS) == sorted(FAULTS)


def test_every_fault_has_a_test(tests_of):
    assert [f"{row}: {text}" for row, text in FAULTS.items() if row not in tests_of] == []


def test_every_mark_names_a_fault(tests_of):
    assert {row: names for row, names in tests_of.items() if row not in FAULTS} == {}


def test_only_tests_are_marked(tests_of):
    assert [name for names in tests_of.values() for name in names if not name.split("::")[1].startswith("test_")] == []


def test_marks_are_read_from_the_source():
    """The control: a mark is seen, another decorator or a comment is none."""
    source = ("@pytest.mark.fault(3, 99)\n@pytest.mark.gpu\ndef test_a(): ...\n"
              "# @pytest.mark.fault(4)\n@pytest.mark.skipif(5)\ndef test_b(): ...\n")
    assert marked(source) == {3: ["test_a"], 99: ["test_a"]}
