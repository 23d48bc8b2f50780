"""Sizes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.sizes import UNITS, parse_size, size_text


@pytest.mark.parametrize(("text", "size"), [
    ("1", 1), ("4096", 4096), ("512B", 512), ("16MiB", 16 * 2**20), ("16 MiB", 16 * 2**20), (" 16mib ", 16 * 2**20),
    ("3K", 3072), ("3KiB", 3072), ("3kB", 3000), ("3KB", 3000), ("2M", 2**21), ("2MB", 2 * 10**6), ("5G", 5 * 2**30),
    ("5GiB", 5 * 2**30), ("5GB", 5 * 10**9), ("007", 7)])
def test_units_have_their_usual_meaning(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "0MiB", "-1", "+1", "1.5GiB", "1e6", "MiB", "16XiB", "16MiBs", "16  MiB",
                                  "1_000", "\u0661\u0666", "16 M B", "9" * 16, "null", "1\n6"])
def test_anything_else_is_an_error_that_says_what_is_allowed(text):
    with pytest.raises(ValueError, match=r"allowed is a whole number of bytes above 0.*KiB.*kB.*16MiB") as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)


@given(st.integers(1, 10**15 - 1), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " "]), st.booleans())
def test_every_number_with_every_unit_is_read(number, unit, between, small):
    text = f"{number}{between}{unit}"
    assert parse_size(text.lower() if small else text.upper()) == number * UNITS[unit]


@pytest.mark.parametrize(("size", "text"), [
    (0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1.0 kB"), (1024, "1 KiB"), (16 * 2**20, "16 MiB"),
    (155_400_000, "155.4 MB"), (2**30, "1 GiB"), (3 * 2**30 + 1, "3.2 GB"), (2**40, "1024 GiB")])
def test_sizes_for_people(size, text):
    assert size_text(size) == text


@given(st.integers(1, 10**6), st.sampled_from([1, 2, 3]))
def test_whole_binary_sizes_are_shown_exactly(number, power):
    assert parse_size(size_text(number * 1024**power)) == number * 1024**power


@given(st.integers(1, 10**14))
def test_every_size_is_shown_to_a_twentieth(size):
    number, unit = size_text(size).split()
    assert float(number) * UNITS.get(unit.lower(), 1) == pytest.approx(size, rel=0.05)
