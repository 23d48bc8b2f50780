"""Sizes in bytes as people write them: 16MiB, 500MB, 4096."""

import re

# Choice: K, M and G alone are powers of 1024, as in GNU split and dd; with a B they are powers of 1000 (SI), with iB
# powers of 1024 again (IEC 80000-13). Capital and small letters are the same.
UNITS: dict[str, int] = {"": 1, "b": 1, **{letter + ending: base**power for power, letter in enumerate("kmg", start=1)
                                           for ending, base in (("", 1024), ("ib", 1024), ("b", 1000))}}
ALLOWED = "a whole number of bytes above 0, alone or with KiB, MiB, GiB (or K, M, G: 1024) or kB, MB, GB (1000)"


def parse_size(text: str) -> int:
    """Bytes that a text such as 16MiB, 16M or 16777216 stands for; ValueError naming what is allowed otherwise."""
    found = re.fullmatch(r"([0-9]{1,15}) ?([A-Za-z]*)", text.strip())
    unit = UNITS.get(found[2].lower()) if found else None
    if found is None or unit is None or int(found[1]) == 0:
        raise ValueError(f"{text!r} is no size; allowed is {ALLOWED}, e.g. 16MiB")
    return int(found[1]) * unit


def size_text(size: int) -> str:
    """A number of bytes for people: whole KiB, MiB or GiB exactly, else to a tenth of a kB, MB or GB."""
    for letter, power in (("G", 3), ("M", 2), ("K", 1)):
        if size >= 1024**power and size % 1024**power == 0:
            return f"{size // 1024**power} {letter}iB"
    for letter, power in (("G", 3), ("M", 2), ("k", 1)):
        if size >= 1000**power:
            return f"{size / 1000**power:.1f} {letter}B"
    return f"{size} byte" + ("" if size == 1 else "s")
