"""Words for a person: the nearest known name, a duration. Never imports torch."""

import difflib
from collections.abc import Sequence


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known name that was most likely meant, capitals aside: itself, its last part, a part of it, or alike."""
    folded = {name.casefold(): name for name in reversed(known)}
    typed = word.casefold()
    leaves = [name for name in folded if typed.split(".")[-1] == name.split(".")[-1]]
    inside = sorted((name for name in folded if len(typed) > 2 and typed in name), key=len)
    close = most_similar(typed, list(folded), 0.5)
    if not close:
        ends = most_similar(typed.split(".")[-1], [name.split(".")[-1] for name in folded], 0.8)
        close = [name for name in folded if ends and name.split(".")[-1] == ends[0]]
    found = [name for name in (typed,) if name in folded] + leaves + inside + close
    return folded[found[0]] if found else None


def most_similar(word: str, names: Sequence[str], cutoff: float) -> list[str]:
    """The name with the largest share of equal letters, at least `cutoff`; of several the one that begins alike."""
    scores = {name: (difflib.SequenceMatcher(None, word, name).ratio(), common_prefix_length(word, name))
              for name in names}
    best = max(scores, key=lambda name: scores[name], default=None)
    return [] if best is None or scores[best][0] < cutoff else [best]


def common_prefix_length(word: str, name: str) -> int:
    """How many letters at the beginning are equal."""
    return next((i for i, (a, b) in enumerate(zip(word, name, strict=False)) if a != b), min(len(word), len(name)))


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
