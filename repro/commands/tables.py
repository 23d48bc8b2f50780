"""Commands that show results: list, table, figure, publish."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from repro.commands.common import Add, output_folder, results_of, runs_of
from repro.errors import ComparisonError
from repro.paths import display_path

if TYPE_CHECKING:
    from repro.reporting.select import RunSet


def register(add: Add) -> None:
    """Add these commands."""
    listing = add("list", "list experiments, suites, tables and figures", show_list)
    listing.add_argument("--json", action="store_true", help="print JSON")
    for name, text, handler in (("table", "print and write a table", make_tables),
                                ("figure", "draw a figure as SVG and PNG", make_figures)):
        command = add(name, text, handler)
        command.add_argument("name", help=f"a {name}'s name, or all")
        command.add_argument("--reference", action="store_true", help="from the committed runs only, beside them")
        if name == "table":
            command.add_argument("--check", action="store_true", help="compare the committed tables with their runs")
            command.add_argument("--strict", action="store_true",
                                 help="exit 4 if a result is worse than published or a row lacks runs")
            form = command.add_mutually_exclusive_group()
            form.add_argument("--json", action="store_true", help="print JSON")
            form.add_argument("--latex", action="store_true", help="print LaTeX (booktabs)")
    publish = add("publish", "promote a finished local run into results/reference", publish_run)
    publish.add_argument("run", help="its folder, or EXPERIMENT/seedK; ensembles/table5")


def show_list(options: argparse.Namespace) -> int:
    """`repro list`."""
    import json

    from repro.reporting.status import entries, listing

    found = entries(*runs_of())
    print(json.dumps(found, indent=2) if options.json else listing(found))
    return 0


def make_tables(options: argparse.Namespace) -> int:
    """`repro table`."""
    from repro.paths import reference_dir
    from repro.reporting import tables

    every = tables.committed_names() if options.reference or options.check else tables.names()
    names = every if options.name == "all" else [options.name]
    if options.check:
        if differing := tables.changed_files(names, reference_dir()):
            raise ComparisonError(f"committed tables do not agree with the committed runs: {', '.join(differing)}\n"
                                  "`repro table all --reference` writes them anew")
        print(f"{len(names)} tables agree with the committed runs")
        return 0
    found, folder = runs_of(options.reference), output_folder("tables", options.reference)
    form = "json" if options.json else "tex" if options.latex else "md"
    problems = [problem for name in names for problem in make_table(name, found, folder, form)]
    if problems and options.strict:
        raise ComparisonError("\n".join(problems))
    return 0


def make_table(name: str, found: list["RunSet"], folder: Path, form: str = "md") -> list[str]:
    """Print one table, write its files, and return what --strict objects to, a line each."""
    from repro.reporting.table import write
    from repro.reporting.tables import build

    table = build(name, found)
    print(table.forms[form])
    written = write(table, folder)
    if form == "md":
        print(f"written: {', '.join(map(display_path, written))}\n")
    return [f"{name}: {text}: {', '.join(rows)}" for text, rows in
            (("worse than published", table.worse), ("rows that lack runs", table.missing_rows)) if rows]


def make_figures(options: argparse.Namespace) -> int:
    """`repro figure`."""
    from repro.reporting import figures

    found = runs_of(options.reference)
    for name in figures.names() if options.name == "all" else [options.name]:
        make_figure(name, found, output_folder("figures", options.reference))
    return 0


def make_figure(name: str, found: list["RunSet"], folder: Path) -> None:
    """Draw one figure and say where it is, or why there is nothing to draw."""
    from repro.reporting.figures import names
    from repro.reporting.painting import draw

    written = draw(name, found, folder)
    others = f"; for short runs: repro figure short_{name}" if f"short_{name}" in names() else ""
    print(f"{name}: {', '.join(map(display_path, written))}" if written
          else f"{name}: nothing to draw yet; no finished run of it (repro list){others}")


def publish_run(options: argparse.Namespace) -> int:
    """`repro publish`; of an ensemble ConfigError if Table 5 would not count it, here or beside what is published."""
    from repro.paper import pick
    from repro.paths import reference_dir
    from repro.publishing import ENSEMBLES, publish, publish_ensemble
    from repro.reporting.select import ENSEMBLE, ensemble_problem, read_ensemble

    if options.run.startswith(ENSEMBLES) and not Path(options.run).exists():
        pick(options.run.removeprefix(ENSEMBLES), {ENSEMBLE: None}, "ensemble that a table has")
        problems = [ensemble_problem(read_ensemble(results_of()), pool) for pool in runs_of()]
        publish_ensemble(options.run, results_of(), next(filter(None, problems), None))
    else:
        publish(options.run, results_of())
    from repro.reporting import figures, tables
    from repro.reporting.painting import draw
    from repro.reporting.table import write

    found = runs_of(reference=True)
    for name in tables.committed_names():
        write(tables.build(name, found), reference_dir() / "tables")
    for name in figures.names():
        draw(name, found, reference_dir() / "figures")
    print("the reference tables and figures are up to date with it")
    return 0
