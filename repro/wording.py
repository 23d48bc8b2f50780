"""Words for a person: the nearest known name, a duration. Never imports torch."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from os.path import commonprefix


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known name that was most likely meant, capitals aside: one that holds the word, or is like it at the end.

    Of several that are equally alike it is the one that begins alike.
    """
    typed = word.casefold()

    def likeness(known_name: str) -> tuple[float, int]:
        name = known_name.casefold()
        pairs = (typed, name), (typed.rpartition(".")[2], name.rpartition(".")[2])
        ratio = max(SequenceMatcher(None, *pair).ratio() for pair in pairs)
        return (len(typed) > 2 and typed in name) + ratio, len(commonprefix(pairs[0]))  # noqa: RUF071

    best = max(known, key=likeness, default="")
    return best if likeness(best)[0] >= 0.6 else None


def escape(text: str) -> str:
    """The text in characters that can be printed anywhere and move no cursor; others as their escape sequence."""
    return text if text.isprintable() else "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def duration(seconds: float | None) -> str:
    """Seconds in words: 45 s, 12 min, 3.4 h, 2.5 days; '?' where nothing was measured."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
