"""LaTeX tables: escaping, alignment, and that pdflatex takes them where it is."""

import re
import shutil
import subprocess

from repro.reporting import tables
from repro.reporting.select import pools
from repro.reporting.table import Table, TableRow, escape


def test_special_characters_are_written_out():
    assert escape("a_b & 50 % #1 {x} $ ~ ^") == (
        r"a\_b \& 50 \% \#1 \{x\} \$ \textasciitilde{} \textasciicircum{}")
    assert escape("6.61 +- 0.16, C <= B < A") == r"6.61 $\pm$ 0.16, C $\le$ B $<$ A"
    assert escape("a\\b") == r"a\textbackslash{}b"


def test_columns_of_numbers_are_flush_right():
    rows = [TableRow("a", {"net": "a", "error": "8.75", "spread": "6.43 (6.61 +- 0.16)"}, "finished"),
            TableRow("b", {"net": "b", "spread": "7.93"}, "finished")]
    columns = {"net": "net", "error": "error", "spread": "spread"}
    text = Table("t_1", "A title", columns, rows, ["a note"]).latex()
    assert r"\begin{tabular}{@{}lrr@{}}" in text
    assert r"\label{tab:t-1}" in text
    assert text.index(r"\bottomrule") < text.index("a note")
    assert text.startswith("% Made by `repro table t_1`")


def test_every_table_has_balanced_braces_and_rows_of_one_length_and_latex_takes_it(results, reference, make_run,
                                                                                    tmp_path):
    make_run(results, "cifar_resnet20", test=8.1, device="a_b & 50 % {x} ~ ^ # $ |")
    texts = []
    for name in tables.names():
        table = tables.build(name, pools(results, reference))
        texts.append(table.latex())
        bare = texts[-1].replace(r"\{", "").replace(r"\}", "").partition("\n")[2]
        assert bare.count("{") == bare.count("}")
        body = texts[-1].partition("\\midrule\n")[2].partition("\\bottomrule")[0].splitlines()
        assert len(body) == len(table.rows)
        assert {len(re.findall(r"(?<!\\)&", line)) for line in body} <= {len(table.columns) - 1}
    if shutil.which("pdflatex") is None:
        return
    (tmp_path / "all.tex").write_text(
        "\\documentclass{article}\n\\usepackage{booktabs,graphicx}\n\\begin{document}\n"
        + "\n".join(texts).replace(r"\begin{table}", r"\begin{table}[p]") + "\\end{document}\n")
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"], cwd=tmp_path,
                          capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_command_prints_it(direct):
    outcome = direct("table", "table6", "--latex")
    assert outcome.code == 0
    assert r"\toprule" in outcome.out
    assert direct("table", "table6", "--latex", "--json").code == 2
