"""The command line: exit codes, one clear message each, no torch where none is needed, whole runs on made-up data."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from repro import paths, runs
from repro.cli import GROUPS
from repro.commands import COMMANDS
from repro.config import experiments
from repro.errors import suggest
from repro.files import duration
from repro.runs import read_run, scan
from repro.schema import FIELDS, SECTIONS
from repro.streams import show_messages
from tests.made_cli import TINY
from tests.outcome import Outcome, says
from tests.warm import Command


@pytest.mark.fault(6)
def test_help_is_one_screen_with_every_command_and_an_example_for_each_group(repro, direct):
    done = repro()
    assert (done.returncode, done.stderr) == (2, "")
    assert direct("--version").out == "repro 0.1.0\n"
    assert direct("--help").out == done.stdout
    lines = done.stdout.splitlines()
    assert len(lines) <= 32
    assert max(map(len, lines)) <= 110
    assert [line[2:17].strip() for line in lines if line.startswith("  ")] == list(COMMANDS)
    assert {parser.get_default("group") for parser in COMMANDS.values()} == set(GROUPS)
    for name in COMMANDS:
        assert direct(*name.split(), "--help").out.startswith(f"usage: repro {name}")


WRONG = [
    (["rnu"], ["no command 'rnu'; did you mean run?", "there are: run, suite, eval"]),
    (["weights", "imprt"], ["no command 'weights imprt'", "there are: weights import, weights export"]),
    (["table", "table6", "--jsn"], ["--jsn"]),
    (["table", "Table66"], ["no table named 'Table66'; did you mean table6?"]),
    (["suite", "cifar_plain_vs_res", "seeds=-1"], ["seeds=-1"]),
    (["run", "experiment=optb"], ["no experiment 'optb'; did you mean imagenet_optB?", "cifar_plain20"]),
    (["run", "cifar_resnet20"], ["did you mean experiment=cifar_resnet20?"]),
    (["run", "experiment=cifar_resnet20", "train.lrr=1"], ["unknown key 'train.lrr'; did you mean train.lr?"]),
    (["run", "experiment=cifar_resnet20", "model.depth=21"], ["model.depth=21: allowed is 6n+2"]),
    (["run", "experiment=cifar_resnet20", "seed=4294967296"], ["seed=4294967296", "0 to 4294967295"]),
    (["run", "experiment=cifar_resnet20", "devices=abc"], ["devices=abc: allowed is int | null"]),
    (["run", "experiment=cifar_resnet20", "results=~nosuch/x"], ["~nosuch/x", "no home here"]),
    (["show", "cifar_resnet2", "--measure"], ["no suite named 'cifar_resnet2'"]),
    (["data", "fetch", "imagenot"], ["imagenot", "cifar10", "imagenet"]),
    (["data", "fetch", "imagenet"], ["may not be passed on", "ILSVRC2012_img_train.tar", "data.root=FOLDER"]),
    (["publish", "cifar_resnet20/seed9"], ["no run 'cifar_resnet20/seed9'", "results"]),
]


@pytest.mark.fault(1, 2, 3, 6, 46)
@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=" ".join)
def test_a_wrong_command_is_one_message_and_2_and_makes_no_run_folder(direct, tmp_path, arguments, words):
    says(direct(*arguments), 2, *words)
    assert not (tmp_path / "results" / "runs").exists()


EXPERIMENTS = {"optb": "imagenet_optB", "OPTB": "imagenet_optB", "optA": "imagenet_optA", "resnet20": "cifar_resnet20",
               "cifar_resnet21": "cifar_resnet20", "cifarplain20": "cifar_plain20", "resnet152": "imagenet_resnet152"}
KEYS = {"train.lrr": "train.lr", "lr": "train.lr", "Train.LR": "train.lr", "sede": "seed", "train.seed": "seed",
        "batch_size": "train.mini_batch_size", "threads": "machine.threads", "device": "machine.device"}


@pytest.mark.fault(1, 6)
def test_the_nearest_experiment_and_key():
    for meant, known in ((EXPERIMENTS, experiments()), (KEYS, [*SECTIONS, *FIELDS])):
        assert {word: suggest(word, known).removeprefix("; did you mean ")[:-1] for word in meant} == meant
    assert {suggest(word, experiments()) for word in ("zzz", "")} | {suggest("x", [])} == {""}


def test_durations_and_printable_text():
    assert [*map(duration, (0, 89, 90, 5399, 5400, 172_799, 172_800, None))] == [
        "0 s", "89 s", "2 min", "90 min", "1.5 h", "48.0 h", "2.0 days", "?"]
    assert paths.escape("a ü\n\x1b[2J") == "a ü\\n\\x1b[2J"


def test_a_shell_gets_its_answers_without_torch(tmp_path):
    """By argcomplete's own protocol, each asked in a fork of one process."""
    lines = {"tab": ["table "], "run experiment=cifar_resnet3": ["experiment=cifar_resnet32 "],
             "table plain": ["plain_nets "], "suite pen": ["pending "], "suite cifar_p": ["cifar_plain_vs_res "],
             "suite pending --dry": ["--dry-run "], "weights im": ["import "], "weights import --fr": ["--from "],
             "data ver": ["verify "]}
    code = """
import os, sys
from repro import cli
lines = sys.stdin.read().splitlines()
end = os._exit
os._exit = lambda code: end(3 if 'torch' in sys.modules else code)
for number, line in enumerate(lines):
    if not os.fork():
        os.environ |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_STDOUT_FILENAME": str(number)}
        cli.main()
    assert os.wait()[1] == 0, line
"""
    environment = os.environ | {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_SHELL": "bash", "_ARGCOMPLETE_IFS": "\n",
                                "_ARGCOMPLETE_COMP_WORDBREAKS": " \n"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False,
                          cwd=tmp_path, input="\n".join(f"repro {line}" for line in lines))
    assert done.returncode == 0, done.stderr
    assert {line: (tmp_path / f"{number}").read_text().split("\n") for number, line in enumerate(lines)} == lines


def test_an_unexpected_error_is_one_message_and_1(here, monkeypatch):
    monkeypatch.setattr("repro.reporting.tables.build", lambda *arguments: 1 // 0)
    says(here("table", "table6"), 1, "unexpected error: ZeroDivisionError: ", "REPRO_DEBUG=1")
    monkeypatch.setenv("REPRO_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        here("table", "table6")


def test_table_json_is_json(direct, tmp_path):
    table = json.loads(direct("table", "table6", "--json").out)
    assert json.loads((tmp_path / "results" / "tables" / "table6.json").read_text()) == table
    assert "resnet-1202" in [row["key"] for row in table["rows"]]


@pytest.mark.fault(41)
def test_check_and_strict_exit_4(here, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "reference_dir", lambda: tmp_path / "reference")
    assert here("table", "table6", "--reference").code == 0
    assert here("table", "table6", "--check").code == 0
    path = tmp_path / "reference" / "tables" / "table6.csv"
    path.write_text(path.read_text().replace("8.75", "8.57"))
    says(here("table", "table6", "--check"), 4, "table6.csv", "repro table all --reference")
    says(here("table", "table6", "--strict"), 4, "table6: rows that lack runs: resnet-20: not run, resnet-32: not run")
    worse = ["table6: worse than published: resnet-20"]
    monkeypatch.setattr("repro.commands.make_table", lambda *arguments: worse)
    says(here("table", "table6", "--strict"), 4, "worse than published: resnet-20")


@pytest.mark.fault(3)
def test_torch_is_not_imported(tmp_path):
    code = """
import sys
from repro.cli import main
for line in sys.stdin.read().splitlines():
    expected, *arguments = line.split()
    assert main(arguments) == int(expected), line
    assert "torch" not in sys.modules, f"torch was imported by {line}"
    assert "figure" in line or "matplotlib" not in sys.modules, f"matplotlib was imported by {line}"
"""
    lines = ("0 --help", "0 status", "0 show experiment=cifar_resnet20 --against fb", "0 table all",
             "0 run experiment=cifar_resnet20 --cfg job", "2 run experiment=cifar_resnet20 train.lr=abc",
             "2 run -m experiment=cifar_resnet20 train.lr=0.1,abc", "2 publish nothing", "0 figure figure6",
             "0 weights --help", "2 suite nosuch", "2 suite demo sed=1", "2 eval nosuch/seed0", "2 eval seeed=1")
    done = subprocess.run([sys.executable, "-c", code], input="\n".join(lines), capture_output=True, text=True,
                          cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.fault(8)
def test_a_driver_that_is_too_old_is_one_message_with_torchs_reason(here, monkeypatch):
    def too_old() -> bool:
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). Please "
                      "update your GPU driver (Triggered internally at CUDAFunctions.cpp:109.)", stacklevel=1)
        return False
    monkeypatch.setattr(torch.cuda, "is_available", too_old)
    says(here("run", *TINY, "machine.device=cuda"), 2, "found version 11040", "machine.device=cpu runs anywhere")


@pytest.mark.fault(7)
@pytest.mark.parametrize(("cards", "then"), [(0, "machine.device=cpu"), (1, "on this machine")])
def test_more_devices_than_there_are_is_2_and_never_silently_fewer(here, tmp_path, monkeypatch, cards, then):
    monkeypatch.delenv("REPRO_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    says(here("run", *TINY, "machine.device=auto", "devices=4"), 2, "devices=4", "4 asked, 1 found", then)
    assert not (tmp_path / "results").exists()


@pytest.mark.fault(9)
def test_missing_data(direct, tmp_path, monkeypatch):
    outcome = direct("run", "experiment=cifar_resnet20", "data.root=no data")
    says(outcome, 3, "CIFAR-10 is not in", "no data", "repro data fetch cifar10", "170 MB", "REPRO_DATA")
    assert not list(tmp_path.glob("results/runs/*"))
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    says(direct("data", "verify"), 3, str(tmp_path), "repro data fetch cifar10")


def test_messages_go_bare_and_once_to_the_stream_of_the_moment(capsys, caplog):
    logger = logging.getLogger("repro.training")
    with show_messages("stderr"), show_messages():
        logger.info("50 % done")
    with show_messages("stderr"):
        logger.warning("a warning")
    assert capsys.readouterr() == ("50 % done\n", "a warning\n")
    logger.info("not of the command line")
    assert caplog.messages == ["not of the command line"]


@pytest.fixture
def finished(here, tmp_path) -> tuple[Path, str]:
    """The folder of a run that the command line finished, and what it said."""
    outcome = here("run", *TINY)
    assert (outcome.code, outcome.err.count("\r")) == (0, 0), outcome.err
    folder, = (tmp_path / "results" / "runs").glob("*/seed0")
    return folder, outcome.out


@pytest.mark.fault(44)
def test_a_run_finishes_and_the_same_command_again_says_so(finished, here):
    folder, out = finished
    run = read_run(folder)
    assert folder.parent.name.startswith("cifar_resnet20@")
    assert run.finished
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.yaml", "gradients.csv", "history.csv", "responses.csv", "run.json", "timing.csv", "weights.pt"]
    for words in ("20 iterations from the start", "not the paper's settings: ", "train.iterations: 64000 -> 20",
                  f"test error {run.record.result['test_top1_error']:.2f} %"):
        assert words in out
    assert "\r" not in out, "no control codes where there is no terminal"
    before = (folder / "run.json").read_bytes()
    again = here("run", *TINY)
    assert (again.code, "is finished" in again.out, "resume=never" in again.out) == (0, True, True)
    assert (folder / "run.json").read_bytes() == before


def test_resume_never_and_other_settings_leave_a_finished_run_alone(finished, here, tmp_path):
    folder, _ = finished
    weights = (folder / "weights.pt").read_bytes()
    assert here("run", *TINY, "data.split=45k").code == 0
    assert (folder / "weights.pt").read_bytes() == weights
    outcome = here("run", *TINY, "resume=never")
    assert (outcome.code, "seed0.old-1" in outcome.out) == (0, True)
    assert (folder.with_name("seed0.old-1") / "weights.pt").read_bytes() == weights
    runs = scan(tmp_path / "results" / "runs")
    assert [run.finished for run in runs] == [True, True]
    split = next(run for run in runs if run.record.evaluated_on == "val")
    assert {"val_top1_error", "val_loss"} <= set(split.history()[0])
    assert not any("test" in key for key in split.history()[0])


def test_max_seconds_stops_with_75_and_the_command_that_goes_on(here):
    outcome = here("run", *TINY, "max_seconds=0.001", "results=a b")
    says(outcome, 75, "stopped by max_seconds", "go on with: repro run experiment=cifar_resnet20", "'results=a b'")
    done = int(re.findall(r"at iteration (\d+) of 20", outcome.err)[0])
    again = here("run", *TINY, "results=a b")
    assert again.code == 0
    assert f"20 iterations from {f'iteration {done}' if done else 'the start'}," in again.out


@pytest.mark.fault(30)
def test_a_run_that_diverges_is_exit_6(here):
    says(here("run", *TINY, "train.lr=1e30"), 6, "not finite", "lr 1e+30")


@pytest.mark.fault(22, 23, 24, 36)
def test_signals_stop_a_run_with_its_state_saved_and_a_second_start_is_refused(here, tmp_path):
    long = [*TINY, "train.iterations=1000000", "train.lr_drops=[]", "evaluation.interval=5"]
    expected = {signal.SIGTERM: 75, signal.SIGHUP: 75, signal.SIGINT: 130, signal.SIGUSR1: 75, signal.SIGUSR2: 75}
    with ExitStack() as stack:
        running = [Command("run", *long, f"seed={seed}", cwd=tmp_path, env=os.environ, made_data=True)
                   for seed in range(len(expected))]
        for process in running:
            stack.callback(process.close)
        folders = [wait_for_evaluation(process, tmp_path / "results", seed) for seed, process in enumerate(running)]
        says(here("run", *long, "seed=0"), 7, f"in progress by pid {running[0].pid} on ")
        for process, number in zip(running, expected, strict=True):
            process.send_signal(number)
        for seed, (process, (number, code)) in enumerate(zip(running, expected.items(), strict=True)):
            out, err = process.communicate()
            says(Outcome(process.returncode, out, err), code, f"stopped by {number.name} at iteration ",
                 f"seed={seed}", "go on with: repro run experiment=cifar_resnet20")
            assert not (folders[seed] / "run.lock").exists()
            assert read_run(folders[seed]).status == "interrupted"
    done = read_run(folders[0]).record.iteration
    again = here("run", *long, "seed=0", "max_seconds=1")
    says(again, 75, "max_seconds")
    assert f"from iteration {done}," in again.out
    history = [row["iteration"] for row in read_run(folders[0]).history()]
    assert history == list(range(5, 5 * len(history) + 1, 5)), "one continuous history"
    assert read_run(folders[0]).record.iteration > done


def wait_for_evaluation(process: Command, results: Path, seed: int) -> Path:
    """The folder of a process's run once it is past its first evaluation."""
    while process.poll() is None:
        for folder in results.glob(f"runs/*/seed{seed}"):
            if read_run(folder).history():
                return folder
        time.sleep(0.1)
    raise AssertionError(process.communicate())


def test_a_sweep_runs_every_combination(here, tmp_path):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [override /model: plain]\nname: mine\nmodel: {blocks_per_stage: 1}\n")
    outcome = here("run", "-m", "--config-dir", "own", *TINY[1:], "experiment=cifar_resnet20,mine",
                   "train.iterations=3", "results=a b, ü")
    assert outcome.code == 0, outcome.err
    runs = scan(tmp_path / "a b, ü" / "runs")
    assert [(run.experiment, run.finished) for run in runs] == [("cifar_resnet20", True), ("mine", True)]
    assert {path.name for path in tmp_path.iterdir()} == {"own", "a b, ü"}


def test_a_stop_ends_the_whole_sweep(here, tmp_path):
    outcome = here("run", "-m", *TINY, "seed=0,1", "max_seconds=0.001")
    says(outcome, 75, "stopped by max_seconds", "go on with: repro run -m experiment=cifar_resnet20", "seed=0,1")
    assert [run.seed for run in scan(tmp_path / "results" / "runs")] == [0]


def test_a_suite_runs_its_preset_and_writes_its_tables(here, tmp_path):
    command = ["suite", "cifar_plain_vs_res", "preset=short", "seeds=1", *TINY[1:], "machine.precision=fp32",
               "scale=0.1", "results=mine"]
    outcome = here(*command)
    assert outcome.code == 0, outcome.err
    assert [(run.experiment, run.seed, run.finished) for run in scan(tmp_path / "mine" / "runs")] == [
        (f"cifar_{net}", 0, True) for net in ("plain20", "plain56", "resnet20", "resnet56")]
    assert (tmp_path / "mine" / "tables" / "short_cifar_plain_vs_res.md").is_file()
    assert not (tmp_path / "results").exists()
    assert here(*command).out.count("is finished") == 4
    says(here("suite", "cifar_plain_vs_res", "preset=shrt"), 2, "shrt", "short", "paper")


@pytest.fixture
def other_reference(tmp_path, monkeypatch) -> Path:
    """A folder in the place of results/reference."""
    for module in (paths, runs):
        monkeypatch.setattr(module, "reference_dir", lambda: tmp_path / "reference")
    return tmp_path / "reference"


def test_publish_copies_the_record_and_brings_the_tables_up_to_date(finished, here, other_reference):
    name = f"{finished[0].parent.name}/seed0"
    outcome = here("publish", name)
    assert outcome.code == 0, outcome.err
    copy = other_reference / "runs" / name
    assert sorted(path.name for path in copy.iterdir()) == [
        "config.yaml", "gradients.csv", "history.csv", "responses.csv", "run.json", "timing.csv"]
    assert read_run(copy).finished
    assert (other_reference / "tables" / "table6.md").is_file()
    assert here("table", "all", "--check").code == 0
    assert here("publish", str(finished[0])).code == 0, "the same run again"
    record = json.loads((copy / "run.json").read_text())
    record["result"]["test_top1_error"] = 1.0
    (copy / "run.json").write_text(json.dumps(record))
    says(here("publish", name), 2, "holds a record already", "delete the folder first")


def test_publish_of_an_unfinished_run(here, other_reference, tmp_path):
    assert here("run", *TINY, "max_seconds=0.001").code == 75
    folder = next((tmp_path / "results" / "runs").glob("*/seed0"))
    says(here("publish", str(folder)), 2, "not finished", "interrupted")
    (folder / "run.json").write_text("{")
    says(here("publish", str(folder)), 2, "not finished", "run.json")
    assert not other_reference.exists()


@pytest.mark.slow
def test_a_short_run_on_real_cifar10_and_eval_of_its_weights(direct, real_cifar10, tmp_path):
    short = ["experiment=cifar_resnet20", "model.blocks_per_stage=1", "scale=0.0001", "evaluation.interval=64000",
             "machine.tensorboard=false", f"data.root={real_cifar10}"]
    done = direct("run", *short)
    assert done.code == 0, done.err
    run, = scan(tmp_path / "results" / "runs")
    assert (run.finished, [row["iteration"] for row in run.history()]) == (True, [7])
    error = run.record.result["test_top1_error"]
    assert 50 < error < 95
    values = json.loads(direct("eval", *short, f"weights={run.folder / 'weights.pt'}", "--json").out)
    assert (values["test_top1_error"], values["images"]) == (error, 10_000)
