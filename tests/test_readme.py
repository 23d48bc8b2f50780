"""What README promises: commands parse, links and targets exist, numbers are those of the committed records."""

import json
import re
import shlex
from datetime import datetime

import pytest

from repro.config import compose
from repro.models import build_model
from repro.paper import ensemble, golden_count, suite
from repro.paths import TREE
from repro.reporting import figures, tables

README = (TREE / "README.md").read_text(encoding="utf-8")
REFERENCE = TREE / "results" / "reference"


def cells(line):
    """The cells of a Markdown table row."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def rows_after(heading):
    """Rows of the README table whose header starts with this text."""
    lines = README.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading}"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(cells(line))
    return rows


def commands(program):
    """Every command line of README's code blocks that starts with this program."""
    blocks = re.findall(r"```\w*\n(.*?)```", README, re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()
            if line.startswith(program + " ")]


def test_every_repro_command_names_things_that_exist():
    found = commands("repro")
    assert len(found) >= 8
    for _, kind, *arguments in found:
        check(kind, arguments)


def check(kind, arguments):
    """Fail unless an experiment, a table, a figure, a suite of this command exists."""
    if kind == "run":
        overrides = [a for a in arguments if "=" in a]
        compose([re.sub(r",.*", "", override) for override in overrides])
    elif kind == "table":
        assert arguments[0] in tables.names()
    elif kind == "figure":
        assert arguments[0] in figures.names()
    elif kind == "eval":
        compose([a for a in arguments if not a.startswith(("weights=", "protocol="))])
    elif kind == "ensemble":
        assert ensemble(arguments[0]).members
    elif kind == "show":
        assert not (words := [a for a in arguments if "=" in a]) or compose(words)
    elif kind == "suite":
        assert suite(arguments[0]).experiments
    elif kind == "claims":
        assert all(suite(name).claims for name in arguments)
    else:
        assert kind in ("responses", "report", "status", "check",
                        "bench", "pending", "data", "weights")


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
        assert published == committed[net]["published"]
        assert ours == committed[net]["reference"]
        assert parameters == committed[net]["parameters"]


def test_the_short_table_is_the_committed_one():
    committed = json.loads((REFERENCE / "tables" / "short_cifar_plain_vs_res.json").read_text())["rows"]
    expected = [[row["cells"][key] for key in ("net", "train", "test")] for row in committed]
    assert [row[:3] for row in rows_after("short version")] == expected


def test_the_multiply_adds_on_imagenet_are_the_golden_ones():
    for name, _, counted in rows_after("experiment | reproduces | multiply-adds"):
        model = compose([f"experiment={name.strip('`')}"]).model
        assert float(counted) == golden_count("imagenet", model.depth).multiply_adds[model.shortcut_option.name]


def test_the_speed_of_the_input_is_the_measured_one():
    record = json.loads((REFERENCE / "bench" / "bench_input_amd-epyc.json").read_text())
    found = {one["contender"]: one for one in record["contenders"]}
    plain, ours, color = (found[name]["images_per_core_second"]["median"]
                           for name in ("plain", "pillow", "pillow_colour"))
    text = " ".join(README.split())
    assert (f"{ours:.0f} crops/s, against {plain:.0f} of ImageFolder and torchvision's transforms, "
            f"{ours / plain:.2f} times ({color:.0f} with color and mean") in text


def test_the_costs_are_the_measured_ones():
    measured = {}
    for name in ("cifar_plain_vs_res", "cifar_very_deep"):
        content = json.loads((REFERENCE / "bench" / f"cost_{name}.json").read_text())
        assert [entry["experiment"] for entry in content["experiments"]] == list(suite(name).experiments)
        measured |= {entry["experiment"]: entry["text"] for entry in content["experiments"]}
    shown = {row[0].strip("`"): row[2] for row in rows_after("experiment")}
    assert shown == measured


def test_the_duration_of_the_short_runs_is_that_of_their_records():
    members = suite("cifar_plain_vs_res").preset("short").experiments
    records = [record for path in (REFERENCE / "runs").glob("*@*/seed0/run.json")
               if (record := json.loads(path.read_text()))["experiment"] in members]
    assert len(records) == 4
    seconds = (max(datetime.fromisoformat(r["ended"]) for r in records)
               - min(datetime.fromisoformat(r["started"]) for r in records)).seconds
    assert f"{seconds // 60} min {seconds % 60} s" in " ".join(README.split())


def test_the_bench_is_the_committed_one():
    (path,) = (REFERENCE / "bench").glob("bench_*_fp32.json")
    record = json.loads(path.read_text())
    expected = []
    for net in record["nets"]:
        for one in net["contenders"]:
            times, images = one["ms_per_step"], one["images_per_second"]["median"]
            expected.append([net["net"], f"{times['median']:.0f} ({times['min']:.0f} to {times['max']:.0f})",
                             f"{images:.0f}", f"{one['time_over_ours']:.2f}"])
        expected += [[net["net"], f"{net['computed'][f'{kind}_ms']:.0f} (computed)", "-", "-"]
                     for kind in ("byte", "compute")]
    shown = rows_after("net | trained by")
    assert [[row[0], *row[2:]] for row in shown] == expected
    assert f"medians of {record['rounds']} rounds" in " ".join(README.split())
    assert record["quick"] is False
    assert record["precision"] == "fp32"


@pytest.mark.fault(80)
def test_the_details_say_what_the_authors_files_and_others_do_differently():
    details = {row[0]: " ".join(row) for row in rows_after("detail")}
    network = build_model(compose(["experiment=imagenet_resnet50"]).model, 0)
    assert "`model.fc_init=msra`" in details["fully connected layer"]
    assert not network.fc.bias.any()
    assert "pool1" in details["the authors' ImageNet files"]
    assert network.pool.padding == 1
    assert "bias in conv1" in details["the authors' ImageNet files"]
    assert network.conv1.bias is None
