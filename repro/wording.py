"""Words for a person: the nearest known name, printable text, a duration. Never imports torch."""

from collections.abc import Sequence
from difflib import SequenceMatcher


def suggest(word: str, known: Sequence[str]) -> str:
    """'; did you mean NAME?', the known name that holds the word or is like it or its end, capitals aside; or ''."""
    def likeness(known_name: str) -> tuple[float, bool]:
        typed, name = word.casefold(), known_name.casefold()
        ends = typed.rpartition(".")[2], name.rpartition(".")[2]
        ratio = max(SequenceMatcher(None, *pair).ratio() for pair in ((typed, name), ends))
        return (len(typed) > 2 and typed in name) + ratio, typed[:3] == name[:3]  # of equals, the one that begins alike

    best = max(known, key=likeness, default="")
    return f"; did you mean {best}?" if likeness(best)[0] >= 0.6 else ""


def escape(text: str) -> str:
    """The text in characters that can be printed anywhere and move no cursor; others as their escape sequence."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def duration(seconds: float | None) -> str:
    """Seconds in words: 45 s, 12 min, 3.4 h, 2.5 days; '?' where nothing was measured."""
    if seconds is None:
        return "?"
    for least, unit, length in ((48 * 3600, "days", 86400), (90 * 60, "h", 3600), (90, "min", 60)):
        if seconds >= least:
            return f"{seconds / length:.{0 if unit == 'min' else 1}f} {unit}"
    return f"{seconds:.0f} s"
