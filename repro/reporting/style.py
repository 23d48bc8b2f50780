"""How figures look. Plain data, no matplotlib."""

from typing import Any

# (color, marker) by depth. Paul Tol's high-contrast set and its neighbors: safe for the color-blind, and each its
# own gray when printed in black and white (luminance falls with depth).
LOOKS = {20: ("#DDAA33", "o"), 32: ("#3FA7C4", "s"), 44: ("#BB5566", "^"), 56: ("#004488", "D"), 110: ("#000000", "v"),
         1202: ("#997700", "P"), 18: ("#DDAA33", "h"), 34: ("#004488", ">")}
LINES: dict[str, dict[str, Any]] = {
    "dashed": {"linestyle": (0, (4, 1.5)), "linewidth": 0.9},
    "bold": {"linestyle": "-", "linewidth": 1.5},
    "thin": {"linestyle": "-", "linewidth": 0.6},
}
SETTINGS: Any = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 8.5, "svg.fonttype": "none",
    "svg.hashsalt": "repro", "axes.spines.top": False, "axes.spines.right": False, "path.simplify": False,
}
NOTE_SIZE, NOTE_LINE = 6.0, 0.115  # points; inches per line
CHARACTERS_PER_INCH = 22.0  # of the small print, on the safe side for DejaVu Sans at NOTE_SIZE


def literal(text: str) -> str:
    """Text that matplotlib draws as it stands: between two dollars it would read a formula."""
    return text.replace("$", r"\$")
