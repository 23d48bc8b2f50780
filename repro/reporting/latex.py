"""Tables as LaTeX with booktabs rules, for papers and slides."""

import re

SPECIAL = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
           "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$",
           '"': "''"}
FITTING, LONG = 5, 40  # columns that fit beside each other; characters of a cell that are not wrapped
NUMBER = re.compile(r"[+-]?[\d.,]+( \(.*\))?[*]?(, \d+ seeds)?|-")


def escape(text: str) -> str:
    """Text with all that LaTeX reads as a command written out; +- and <= as signs; other characters as they are."""
    marked = text.replace("+-", "\x00").replace("<=", "\x01").replace(">=", "\x02")
    plain = "".join(SPECIAL.get(character, character) for character in marked)
    return plain.replace("\x00", r"$\pm$").replace("\x01", r"$\le$").replace("\x02", r"$\ge$")


def latex(name: str, title: str, columns: list[str], rows: list[list[str]], notes: tuple[str, ...]) -> str:
    """A table environment; needs booktabs and graphicx (and UTF-8 input, the default since 2018).

    Columns of numbers are set flush right, those of long texts are wrapped, and a wide table is scaled to the line.
    The notes stand below the table in footnote size.
    """
    formats = "".join(column_format([row[place] for row in rows]) for place in range(len(columns)))
    tabular = [rf"\begin{{tabular}}{{@{{}}{formats}@{{}}}}", r"\toprule",
               " & ".join(escape(column) for column in columns) + r" \\", r"\midrule",
               *(" & ".join(escape(cell) for cell in row) + r" \\" for row in rows), r"\bottomrule", r"\end{tabular}"]
    if len(columns) > FITTING:
        tabular = [r"\resizebox{\linewidth}{!}{%", *tabular, "}"]
    lines = [f"% Made by `repro table {name}` from records; needs \\usepackage{{booktabs,graphicx}}.", r"\begin{table}",
             r"\centering", rf"\caption{{{escape(title)}}}", rf"\label{{tab:{name.replace('_', '-')}}}", *tabular]
    if notes:
        body = r" \\".join(f"\n{escape(note)}" for note in notes)
        lines += ["", r"\medskip", rf"\parbox{{\linewidth}}{{\footnotesize\raggedright{body}}}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def column_format(cells: list[str]) -> str:
    """r for numbers, a wrapped column for long texts, else l."""
    if all(NUMBER.fullmatch(cell) for cell in cells):
        return "r"
    return r"p{5cm}" if max(map(len, cells), default=0) > LONG else "l"
