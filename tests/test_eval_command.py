"""`repro eval`, `ensemble` and `weights` on the command line, on made-up data."""

import json
import shutil

import pytest
import torch

from repro.files import read_rows
from repro.paths import results_dir
from repro.runs import read_run, scan
from tests.evaluation.made import TINY as IMAGENET
from tests.evaluation.made import make_images, make_run
from tests.made_cli import TINY
from tests.made_weights import akamaster_net, checkpoint
from tests.outcome import says

IMAGENET_RUN = [*IMAGENET, "train.iterations=1", "train.lr_drops=[]", "evaluation.interval=1"]


def train(here, *words):
    """The finished run."""
    outcome = here("run", *TINY, *words)
    assert outcome.code == 0, outcome.err
    run, = scan(results_dir() / "runs")
    return run


def test_a_run_named_in_any_way_gives_its_recorded_error(here):
    run = train(here)
    path, wanted = run.folder / "weights.pt", run.record.result
    for words in (TINY, [*TINY, f"weights={path}"], [f"weights={path}"], [run.name], [str(run.folder)]):
        outcome = here("eval", *words, "--json")
        assert outcome.code == 0, outcome.err
        values = json.loads(outcome.out)
        assert (values["test_top1_error"], values["split"], values["images"]) == (wanted["test_top1_error"], "full", 30)
    assert f"test error {wanted['test_top1_error']:.2f} %" in here("eval", run.name).out
    says(here("eval", *TINY, f"weights={path}", "model.blocks_per_stage=2"), 2, "need model.depth=8")
    says(here("eval", run.name, "protocol=center"), 2, "center", "single_view")
    with (run.folder / "history.csv").open("a") as file:
        file.write("x")
    says(here("eval", run.name), 2, "no finished run with weights", "history.csv was changed after the run")


@pytest.mark.fault(50)
def test_the_weights_of_a_run_carry_its_settings_wherever_they_go(here, tmp_path):
    run = train(here, "model.zero_padding=both_sides", "data.split=45k")
    moved, bare = tmp_path / "moved.pt", tmp_path / "bare.pt"
    shutil.copy(run.folder / "weights.pt", moved)
    torch.save(dict(state := torch.load(moved, weights_only=True)), bare)
    outcome = here("eval", *TINY, f"weights={moved}", "--json")
    values = json.loads(outcome.out)
    assert (values["val_loss"], values["split"]) == (run.record.result["val_loss"], "45k")
    says(here("eval", *TINY, f"weights={moved}", "data.split=full"), 2, "need data.split=45k, not data.split=full")
    other = here("eval", *TINY, f"weights={bare}", "--json")
    assert json.loads(other.out)["test_loss"] != values["val_loss"]
    assert "nothing says how its weights were trained" in here("eval", *TINY, f"weights={bare}").out
    state.repro |= {"run": "\x1b[2J", "deviations": []}
    torch.save(state, moved)
    assert "weights of \\x1b[2J; deviations from the paper: none" in here("eval", f"weights={moved}").out


def test_imagenet_without_weights_takes_those_of_the_finished_run(direct, tmp_path):
    words = ["eval", *IMAGENET_RUN, f"data.root={make_images(tmp_path / 'images', 10)}"]
    says(direct(*words), 2, "no finished run", "no run.json", "weights=FILE")
    folder = make_run()
    outcome = direct(*words, "protocol=ten_crop", "--json")
    assert outcome.code == 0, outcome.err
    record = json.loads(outcome.out)
    assert json.loads((folder / "evaluations" / "ten_crop.json").read_text()) == record
    assert (record["protocol"], record["seed"], record["identity"]) == ("ten_crop", 0, read_run(folder).identity)
    text = direct(*words).out
    assert "center crop" in text, "the data set's own protocol"
    assert "WIRING TEST" in text
    says(direct(*words, "seed=1"), 2, "seed1")
    says(direct("eval", str(folder), "protocol=tencrop"), 2, "did you mean ten_crop?")


@pytest.mark.parametrize(("arguments", "words"), [
    (["eval", "weights=x.pt"], ["x.pt"]), (["eval", "cifar_resnet20/seed7"], ["no run 'cifar_resnet20/seed7'"]),
    (["eval", *IMAGENET, "wieghts=x"], ["unknown key 'wieghts'"]),
    (["eval", "experiment=cifar_resnet20", "what=respones"], ["did you mean responses?"]),
    (["ensemble", "table6"], ["no ensemble named 'table6'", "table5"]),
    (["weights", "import", "net.th", "--from", "caffe"], ["caffe", "akamaster"]),
], ids=lambda words: words[-1])
def test_a_wrong_command_is_one_message(direct, arguments, words):
    says(direct(*arguments), 5 if "weights=x.pt" in arguments else 2, *words)


def test_an_ensemble_without_members_names_what_makes_them(direct):
    says(direct("ensemble", "table5"), 3, "lacks 6 of 6 members", "repro run experiment=imagenet_resnet152 seed=1")
    assert not (results_dir() / "ensembles").exists()


def test_weights_are_imported_tested_and_exported(here, tmp_path):
    file = checkpoint(tmp_path / "net.th", akamaster_net(1).state_dict())
    outcome = here("weights", "import", str(file), "--from", "akamaster")
    out = results_dir() / "imported" / "net-akamaster.pt"
    assert f"test it with: repro eval weights={out.relative_to(tmp_path)}" in outcome.out, outcome.err
    assert "weights of others: layout akamaster" in here("eval", f"weights={out}").out
    says(here("weights", "import", str(file), "--from", "akamaster", "--output", str(file)), 2, "is there already")
    folder = make_run()
    assert here("weights", "export", str(folder)).code == 0
    exported, name = results_dir() / "exported", f"{folder.parent.name}_seed0.pt"
    assert sorted(path.name for path in exported.iterdir()) == [name, f"{name}.md", f"{name}.mean.npz"]
    assert (exported / f"{name}.mean.npz").read_bytes() == (folder / "mean.npz").read_bytes()
    assert "wiring test" in (exported / f"{name}.md").read_text()


@pytest.mark.slow
@pytest.mark.fault(65)
def test_responses_are_measured_where_they_lack(here):
    run = train(here, "evaluation.responses=false")
    assert not (run.folder / "responses.csv").exists()
    for words in ([], [run.name, "machine.device=cpu"]):
        (run.folder / "responses.csv").unlink(missing_ok=True)
        outcome = here("eval", *words, "what=responses")
        assert "responses of its layers in" in outcome.err
        assert len(read_rows(run.folder / "responses.csv")) == 7
    assert here("eval", "what=responses") == (0, "", "no finished run lacks responses.csv\n")
    says(here("eval", run.name, "what=responses", "data.rot=x"), 2, "data.rot", "did you mean data.root?")
    path = run.folder / "weights.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for words in ([run.name], [run.name, "what=responses"], [f"weights={path}"]):
        says(here("eval", *words), 5, "weights.pt")


def test_responses_are_of_cifar10(here):
    """Fig. 7 is of CIFAR-10's test images, and nothing else is to be written into the records of ImageNet."""
    folder = make_run()
    before = (folder / "run.json").read_bytes()
    assert here("eval", "what=responses").code == 0
    says(here("eval", str(folder), "what=responses"), 2, "finished runs of CIFAR-10")
    assert (folder / "run.json").read_bytes() == before
