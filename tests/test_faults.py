"""Every fault of tests/faults.py has a test that injects it, and no test is marked with another one."""

import re
from pathlib import Path

from tests.faults import FAULTS

MARK = re.compile(r"^@pytest\.mark\.fault\(([\d, ]+)\)$", re.MULTILINE)


def test_every_fault_has_a_test_and_every_mark_names_a_fault():
    sources = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py")]
    marked = {int(row) for text in sources for rows in MARK.findall(text) for row in rows.split(",")}
    assert [f"{row}: {text}" for row, text in FAULTS.items() if row not in marked] == []
    assert marked <= FAULTS.keys()
