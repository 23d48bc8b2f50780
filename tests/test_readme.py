"""What README promises: commands parse, links and targets exist, numbers are those of the committed records."""

import json
import re
import shlex

import pytest

from repro import paper
from repro.cli import find_command
from repro.commands import COMMANDS, OWN_KEYS
from repro.config import compose
from repro.models import build_model
from repro.paper import golden_counts, suite
from repro.paths import TREE
from repro.reporting import figures, tables

README = (TREE / "README.md").read_text(encoding="utf-8")
REFERENCE = TREE / "results" / "reference"


def rows_after(heading, text=README):
    """Cells of the Markdown table whose header starts with this text."""
    rows = text[text.index(f"| {heading}"):].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def commands(program):
    """Every command line of README's code blocks that starts with this program."""
    blocks = re.findall(r"```\w*\n(.*?)```", README, re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()
            if line.startswith(program + " ")]


def test_every_repro_command_parses_and_names_things_that_exist():
    found = commands("repro")
    assert len(found) >= 8
    names = {"table": tables.names(), "figure": figures.names(), "suite": paper.suites(), "claims": paper.suites(),
             "ensemble": paper.ensembles()}
    for _, *words in found:
        name = find_command(words)
        rest = words[len(name.split()):]
        if name != "run":
            COMMANDS[name].parse_intermixed_args(rest)
        assert not rest or rest[0] in {*names.get(name, rest), "all"}
        settings = [re.sub(r",.*", "", word) for word in rest if "=" in word and word.split("=")[0] not in
                    OWN_KEYS.get(name, ())]
        if any(word.startswith("experiment=") for word in settings):
            compose(settings)


def test_every_make_target_exists():
    makefile = (TREE / "Makefile").read_text(encoding="utf-8")
    phony = " ".join(re.findall(r"^\.PHONY: (.*)", makefile, re.MULTILINE)).split()
    used = {word for text in re.findall(r"`make ([^`]*)`|^make (.*)", README, re.MULTILINE)
            for word in " ".join(text).split("#")[0].split() if re.fullmatch(r"[a-z-]+", word)}
    assert used
    assert used <= set(phony)


def test_every_link_into_the_tree_exists():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 5
    for link in links:
        if not link.startswith("http"):
            assert (TREE / link).exists(), link


def test_table_6_is_the_committed_one():
    committed = {row["cells"]["net"]: row["cells"] for row in json.loads(
        (REFERENCE / "tables" / "table6.json").read_text())["rows"] if row["key"].startswith("resnet")}
    shown = rows_after("Table 6")
    assert [row[0] for row in shown] == list(committed)
    for net, published, ours, _, parameters in shown:
        assert published == committed[net]["test_top1_error"]
        assert ours == committed[net]["reference_test_top1_error"]
        assert parameters == committed[net]["parameters"]


def test_the_short_table_is_the_committed_one():
    committed = json.loads((REFERENCE / "tables" / "short_cifar_plain_vs_res.json").read_text())["rows"]
    expected = [[row["cells"][key] for key in ("net", "train", "test")] for row in committed]
    assert [row[:3] for row in rows_after("short version")] == expected


def test_the_multiply_adds_on_imagenet_are_the_golden_ones():
    for name, _, counted in rows_after("experiment | reproduces | multiply-adds"):
        model = compose([f"experiment={name.strip('`')}"]).model
        assert float(counted) == golden_counts("imagenet")[model.depth].multiply_adds[model.shortcut_option.name]


def test_the_costs_are_the_measured_ones():
    measured = {}
    for name in ("cifar_plain_vs_res", "cifar_very_deep"):
        content = json.loads((REFERENCE / "bench" / f"cost_{name}.json").read_text())
        assert [entry["experiment"] for entry in content["experiments"]] == list(suite(name).experiments)
        measured |= {entry["experiment"]: entry["text"] for entry in content["experiments"]}
    shown = {row[0].strip("`"): row[2] for row in rows_after("experiment")}
    assert shown == measured


def test_the_bench_is_the_committed_one():
    (path,) = (REFERENCE / "bench").glob("bench_*_fp32.md")
    text = path.read_text(encoding="utf-8")
    assert rows_after("contender |") == rows_after("contender |", text)
    assert "quick" not in text.splitlines()[0].casefold()


@pytest.mark.fault(80)
def test_the_details_say_what_the_authors_files_and_others_do_differently():
    details = {row[0]: " ".join(row) for row in rows_after("detail")}
    network = build_model(compose(["experiment=imagenet_resnet50"]).model, 0)
    assert "`model.fc_init=msra`" in details["fully connected layer"]
    assert not network.fc.bias.any()
    assert [word in details["the authors' ImageNet files"] for word in ("pool1", "bias in conv1")] == [True, True]
    assert (network.pool.padding, network.conv1.bias) == (1, None)
