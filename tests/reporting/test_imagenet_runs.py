"""ImageNet runs, tested on val, in all that reads runs: selection, figure, claims, comparison, report, status."""

import json
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest

from repro.config import compose, scale_lengths
from repro.errors import ConfigError
from repro.paper import ClaimTest
from repro.paths import reference_dir
from repro.reporting import figures, tables
from repro.reporting.claims import evaluate, measure
from repro.reporting.figures import gather
from repro.reporting.painting import draw
from repro.reporting.report import card, report
from repro.reporting.select import RunSet, median_run, net_name, paper_runs, pools
from repro.reporting.settings import compare
from repro.reporting.status import entries, listing, status, status_text
from repro.runs import publish, read_run, scan, title
from tests.reporting.conftest import composed, statuses, write_ensemble, write_evaluation

PLAIN18, PLAIN34, RES18, OPT_A = "imagenet_plain18", "imagenet_plain34", "imagenet_resnet18", "imagenet_optA"
SMOKE = ("machine=smoke",)


def answer(root: Path, experiment: str):
    return paper_runs(RunSet("yours", tuple(scan(root / "runs")), root), experiment)


def claim(name: str, results: Path, reference: Path):
    return next(result for result in evaluate(pools(results, reference)) if result.id == name)


def test_a_run_that_was_tested_on_val_counts(results: Path, make_run):
    for seed, error in enumerate((30.0, 29.0, 31.5)):
        make_run(results, OPT_A, seed, test=error)
    found = answer(results, OPT_A)
    assert found.summary().values == (30.0, 29.0, 31.5)
    assert found.summary("val_top5_error").best == pytest.approx(29 / 3)
    assert median_run(found).seed == 0


@pytest.mark.parametrize(("experiment", "split", "reason"), [
    (OPT_A, "test", "it was evaluated on test"), (OPT_A, None, "it was evaluated on None"),
    ("cifar_resnet20", "val", "it was evaluated on val")])
def test_the_split_follows_from_the_experiment(results: Path, make_run, experiment: str, split: str, reason: str):
    make_run(results, experiment, test=30.0, change={"evaluated_on": split})
    found = answer(results, experiment)
    assert found.runs == ()
    assert reason in found.notes()[0]


def test_errors_of_another_split_are_no_result(results: Path, make_run):
    folder = make_run(results, OPT_A, test=30.0)
    for file in ("run.json", "history.csv"):
        (folder / file).write_text((folder / file).read_text().replace("val_top1_error", "test_top1_error"))
    assert "its record has no training and val error" in answer(results, OPT_A).notes()[0]


def test_a_wiring_test_is_never_evidence_and_named_everywhere(results: Path, reference: Path, make_run):
    folder = make_run(results, OPT_A, test=1.0, overrides=SMOKE)
    run = read_run(folder)
    assert run.finished
    assert "@" in folder.parent.name
    assert answer(results, OPT_A).excluded[0].status == "wiring test"
    own = RunSet("yours", (run,), results)
    assert not paper_runs(own, OPT_A).runs
    other = make_run(results, OPT_A, test=30.0)
    assert title(composed(OPT_A, SMOKE)).endswith("(wiring test)")
    assert "wiring test" in compare(run, read_run(other))["runs"][0]
    assert "wiring test" in card(run, "yours")["badges"]
    assert "1 finished (wiring test)" in listing(entries(*pools(results, reference)))
    make_run(results, OPT_A, 1, test=1.0, overrides=SMOKE, status="interrupted")
    assert "seed1 (wiring test): iteration" in status_text(status(*pools(results, reference)))
    with pytest.raises(ConfigError, match="is no evidence: wiring test"):
        publish(str(folder), results)


def test_a_wiring_test_with_the_papers_identity_does_not_count(results: Path, make_run):
    """Whatever its record says of itself."""
    folder = make_run(results, OPT_A, test=30.0)
    record = json.loads((folder / "run.json").read_text())
    assert answer(results, OPT_A).runs
    record["config"]["data"]["wiring_test"] = True
    (folder / "run.json").write_text(json.dumps(record))
    assert answer(results, OPT_A).excluded[0].status == "wiring test"


def test_a_claim_says_that_a_wiring_test_is_no_evidence(results: Path, reference: Path, make_run):
    make_run(results, OPT_A, overrides=SMOKE)
    assert "imagenet_optA is not run (a wiring test says nothing about ImageNet)" in claim(
        "imagenet-depth-helps", results, reference).reason


def test_figure4_draws_thin_training_and_bold_validation_errors(results: Path, reference: Path, tmp_path: Path,
                                                                make_run):
    for name, train, val in ((PLAIN18, 31.0, 30.0), (PLAIN34, 33.0, 31.0), (OPT_A, 26.0, 27.0)):
        make_run(results, name, train=train, test=val)
    content = gather("figure4", pools(results, reference))
    assert content is not None
    assert [[line.label for line in panel.lines if line.label] for panel in content.panels] == [
        ["18-layer", "34-layer"], ["34-layer"]]
    assert all(not panel.marks for panel in content.panels), "the tables print 10-crop errors"
    assert "validation error of the center crop" in content.notes
    assert "not run: ResNet-18" in content.notes
    written = draw("figure4", pools(results, reference), tmp_path)
    assert written is not None
    styles = {group.get("id"): next(iter(group)).get("style", "") for group in ElementTree.parse(written[0]).iter()
              if str(group.get("id", "")).endswith(("-training", "-validation"))}
    assert set(styles) == {f"{net}-{error}" for net in ("plain-18", "plain-34", "resnet-34")
                           for error in ("training", "validation")}
    width = {key: float(style.partition("stroke-width: ")[2].partition(";")[0] or 1) for key, style in styles.items()}
    assert all(width[f"{net}-validation"] > 2 * width[f"{net}-training"] for net in ("plain-18", "resnet-34"))
    assert not any("dasharray" in style for style in styles.values())
    assert not [name for name in figures.names() if name.endswith("_figure4")], "no short or synthetic one"


def test_of_several_seeds_figure4_draws_the_median_by_validation_error(results: Path, reference: Path, make_run):
    for seed, error in enumerate((30.0, 28.0, 29.0)):
        make_run(results, OPT_A, seed, test=error)
    content = gather("figure4", pools(results, reference))
    assert content is not None
    assert any("closest to the median validation error: ResNet-34 A (seed 2 of 3 seeds)" in note
               for note in content.notes)


def test_the_imagenet_claims_can_be_decided(results: Path, reference: Path, make_run):
    errors = {PLAIN18: (31.5, 30.2), PLAIN34: (33.0, 31.0), RES18: (31.0, 30.1), OPT_A: (26.5, 27.5),
              "imagenet_optB": (26.3, 27.2), "imagenet_optC": (26.1, 27.0), "imagenet_resnet50": (22.0, 24.7),
              "imagenet_resnet101": (20.0, 23.6), "imagenet_resnet152": (19.0, 23.0)}
    for name, (train, val) in errors.items():
        make_run(results, name, train=train, test=val)
    found = {result.id: result for result in evaluate(pools(results, reference))}
    wanted = ("imagenet-degradation", "imagenet-depth-helps", "shortcut-options", "bottleneck-depth")
    assert {name: found[name].verdict for name in wanted} == dict.fromkeys(wanted, "PASS")
    assert "spread 0.15 for few seeds" in found["shortcut-options"].comparisons[0].numbers
    make_run(results, "imagenet_optC", train=26.1, test=27.7)  # more than 2 sqrt(2) 0.15 above option B
    make_run(results, "imagenet_resnet101", train=20.0, test=24.8)
    again = {result.id: result.verdict for result in evaluate(pools(results, reference))}
    assert (again["shortcut-options"], again["bottleneck-depth"]) == ("FAIL", "FAIL")


def test_eighteen_layers_end_close_and_the_residual_one_is_faster(results: Path, reference: Path, make_run):
    make_run(results, PLAIN18, train=31.5, test=30.2)
    make_run(results, RES18, train=31.0, test=30.0)
    assert [one.outcome for one in claim("eighteen-layers", results, reference).comparisons] == ["PASS", "PASS"]
    make_run(results, RES18, train=36.0, test=29.0)
    assert [one.outcome for one in claim("eighteen-layers", results, reference).comparisons] == ["FAIL", "FAIL"]


def test_the_last_1000_iterations_fall_inside_one_row_of_5000(results: Path, make_run):
    run = read_run(make_run(results, OPT_A, train=26.0, test=27.0))
    rows = run.history()
    assert rows[-1]["iteration"] - rows[-2]["iteration"] == 5000
    end = measure(ClaimTest("training_error", "rising", ()), run)
    assert end == rows[-1]["train_top1_error"]
    drop = scale_lengths(150_000, 1.0)
    before = [row["train_top1_error"] for row in rows if row["iteration"] <= drop]
    assert measure(ClaimTest("convergence_area", "rising", ()), run) == pytest.approx(sum(before) / len(before))


def test_two_imagenet_runs_are_compared_on_val(results: Path, make_run):
    first, second = (read_run(make_run(results, name, test=error)) for name, error in ((OPT_A, 27.0), (RES18, 30.0)))
    found = compare(first, second)
    assert found["errors"]["val_top1_error"] == [27.0, 30.0]
    assert found["errors"]["val_top5_error"] == [9.0, 10.0]


def test_the_report_has_the_tests_of_a_run(results: Path, reference: Path, make_run):
    folder = make_run(results, OPT_A, test=27.0)
    write_evaluation(folder, "ten_crop", 25.1, 7.8)
    write_evaluation(folder, "multi_scale", 22.0, 6.0, images=200)
    facts = card(read_run(folder), "yours")["facts"]
    assert facts["10-crop"] == "val error 25.10 %, top-5 7.80 %"
    assert "multi-scale" not in facts
    assert "val error 27.00 %" in facts["result"]
    page = report(pools(results, reference), {})
    assert "25.10 %" in page


def test_status_names_the_test_that_a_finished_run_lacks(results: Path, reference: Path, make_run):
    folder = make_run(results, OPT_A, test=27.0)
    found = {entry["row"]: entry for entry in status(*pools(results, reference))["lacking"]}
    lacking = found["table2/resnet-34"]
    assert (lacking["status"], lacking["go_on"]) == (
        "not evaluated", "repro eval experiment=imagenet_optA protocol=ten_crop")
    assert lacking["go_on"] in status_text(status(*pools(results, reference)))
    write_evaluation(folder, "ten_crop")
    rows = {entry["row"] for entry in status(*pools(results, reference))["lacking"]}
    assert not {"table2/resnet-34", "table3/resnet-34-a"} & rows
    assert "table3/resnet-34-b" in rows


def test_status_names_the_test_that_a_committed_run_lacks(results: Path, reference: Path, make_run):
    make_run(reference, OPT_A, test=27.0)
    found = {entry["row"]: entry for entry in status(*pools(results, reference))["lacking"]}
    assert found["table2/resnet-34"]["go_on"] == "repro eval experiment=imagenet_optA protocol=ten_crop"


def test_status_names_the_ensemble_until_it_counts(results: Path, reference: Path, make_run):
    write_evaluation(make_run(results, "imagenet_resnet152", test=23.0), "multi_scale")
    content = json.loads(write_ensemble(results, wiring_test=True).read_text())
    entry = {entry["row"]: entry for entry in status(*pools(results, reference))["lacking"]}["table5/resnet-ilsvrc15"]
    assert (entry["seeds"], entry["needed"], entry["status"]) == (1, 6, "not counted")
    assert "1/6 members, repro ensemble table5" in status_text(status(*pools(results, reference)))
    lacking = {entry["row"] for entry in status(*pools(results, reference))["lacking"]}
    assert "table4/resnet-152" not in lacking, "one is enough"
    for member in content["members"]:
        member["weights_sha256"] = "0" * 64  # as write_evaluation has it
    write_ensemble(results, members=content["members"])
    assert "table5/resnet-ilsvrc15" not in {entry["row"] for entry in status(*pools(results, reference))["lacking"]}


def test_commands_of_imagenet_runs_name_their_folder_and_quote_their_values(results: Path, reference: Path, make_run,
                                                                            tmp_path: Path):
    given = (f"data.root={tmp_path}", "train.lr_drops=[1,2]", "data.wiring_test=true")
    make_run(results, OPT_A, status="interrupted", overrides=given)
    make_run(results, OPT_A, 1, test=27.0, overrides=("data.root=/no/such/folder",))
    found = status(*pools(results, reference))
    assert found["interrupted"][0]["go_on"] == (
        f"repro run experiment=imagenet_optA seed=0 data.wiring_test=true 'train.lr_drops=[1,2]' data.root={tmp_path}")
    lacking = {entry["row"]: entry for entry in found["lacking"]}["table2/resnet-34"]
    assert lacking["go_on"].endswith("seed=1 protocol=ten_crop data.root=FOLDER")
    words = shlex.split(found["interrupted"][0]["go_on"])[2:]
    assert compose(words).train.lr_drops == [1, 2]


def test_status_counts_the_time_of_a_run_that_answers_two_rows_once(results: Path, reference: Path, make_run):
    (reference / "bench").mkdir(parents=True)
    (reference / "bench" / "cost_x.json").write_text(json.dumps({"experiments": [{
        "experiment": "imagenet_resnet152", "run_seconds": 36_000.0, "iterations": 600_000, "device": "made-up device",
        "precision": "fp32"}]}))
    found = status(*pools(results, reference))
    found["lacking"] = [entry for entry in found["lacking"] if entry["experiment"] == "imagenet_resnet152"]
    assert [entry["seconds"] for entry in found["lacking"]] == [36_000.0, 36_000.0]
    assert "together 10.0 h" in status_text(found)


def test_the_names_of_the_networks():
    names = {PLAIN18: "plain-18", RES18: "ResNet-18", OPT_A: "ResNet-34 A", "imagenet_resnet152": "ResNet-152",
             "imagenet_vgg16": "VGG-16", "cifar_plain20": "plain-20", "cifar_resnet1202": "ResNet-1202"}
    assert {name: net_name(name) for name in names} == names


def test_publish_takes_the_records_of_finished_tests_and_nothing_heavy(results: Path, make_run, monkeypatch, tmp_path):
    monkeypatch.setattr("repro.runs.in_tree", lambda: True)
    monkeypatch.setattr("repro.runs.reference_dir", lambda: tmp_path / "reference")
    folder = make_run(results, OPT_A, test=27.0)
    for name in ("weights.pt", "mean.npz", "timing.csv", "config.yaml"):
        (folder / name).write_bytes(b"x")
    write_evaluation(folder, "ten_crop", 25.1)
    write_evaluation(folder, "multi_scale", finished=False)
    (folder / "evaluations" / "center.json").write_text("{")
    for name in ("ten_crop.npy", "ten_crop.labels.npy"):
        (folder / "evaluations" / name).write_bytes(b"x")
    target = publish(f"{OPT_A}/seed0", results)
    assert target == tmp_path / "reference" / "runs" / OPT_A / "seed0"
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()) == [
        "config.yaml", "evaluations/ten_crop.json", "history.csv", "run.json", "timing.csv"]
    table = tables.build("table2", pools(None, tmp_path / "reference"))
    assert statuses(table)["resnet-34"] == "reproduced"
    (folder / "evaluations" / "ten_crop.json").unlink()
    write_evaluation(folder, "center", 27.0)
    publish(f"{OPT_A}/seed0", results)
    assert sorted(path.name for path in (target / "evaluations").iterdir()) == ["center.json", "ten_crop.json"]
    assert tmp_path / "reference" != reference_dir()


def test_a_listed_cost_is_measured_where_a_run_is(results: Path, reference: Path, make_run):
    make_run(reference, OPT_A, test=27.0, change={"train_seconds": 7000.0, "evaluation_seconds": 200.0})
    make_run(results, RES18, overrides=("scale=0.5",))
    found = {entry["name"]: entry["cost"] for entry in entries(*pools(results, reference))["experiments"]}
    assert found[OPT_A] == {"hours": 2.0, "text": "2 h on made-up device (seed0)"}
    assert found[RES18] is None
    make_run(results, OPT_A, test=27.0, change={"train_seconds": 17_000.0, "evaluation_seconds": 1000.0,
                                                "environment": {"device": "NVIDIA H100", "devices": 8}})
    found = {entry["name"]: entry["cost"] for entry in entries(*pools(results, reference))["experiments"]}
    assert found[OPT_A] == {"hours": 40.0, "text": "5 h on 8 x NVIDIA H100, 40 GPU-hours (seed0)"}
