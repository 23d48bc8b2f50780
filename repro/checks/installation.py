"""`repro check`: each check returns a status and what it has found, in words. Under a minute on a CPU."""

import io
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from functools import partial
from pathlib import Path

import torch
import torchvision

from repro.checks import FAIL, OK, SKIPPED, WARNING, CheckResult, check_versions
from repro.config import compose, experiments, paper_config
from repro.data import cifar10_files
from repro.devices import code_version, describe, find_device, package_versions
from repro.errors import ReproError, Stopped
from repro.models import build_model
from repro.paper import counts
from repro.paths import display_path, in_tree, reference_dir, results_dir
from repro.reporting import tables
from repro.stopping import StopRequest
from repro.streams import show_messages
from repro.training.distributed import plan
from repro.training.train import run, train_here

logger = logging.getLogger(__name__)
Found = tuple[str, str]  # status and text
ENOUGH_DISK = 500  # MB; ResNet-1202: 78 MB of weights, each of two checkpoints twice that
TINY_RUN = ("experiment=cifar_resnet110", "data=synthetic", "model.blocks_per_stage=1", "train.mini_batch_size=16",
            "train.batch_norm_group=16", "train.iterations=8", "train.lr_drops=[5,7]", "train.warmup_window=2",
            "train.warmup_max=4", "evaluation.interval=8", "evaluation.responses=false",
            "evaluation.batch_norm_images=0", "machine.device=cpu")


def perform(root: Path) -> list[CheckResult]:
    """Carry out each check in turn and show it. One that breaks down has failed. root: the folder of the data sets."""
    checks: dict[str, Callable[[], Found]] = {
        "versions": versions, "device": device, "disk": disk, "CIFAR-10": partial(cifar10, root),
        "golden counts": golden_counts, "torchvision": torchvision_outputs, "exact resume": exact_resume,
        "committed tables": committed_tables}
    results = []
    for name, check in checks.items():
        try:
            status, text = check()
        except Exception as error:
            kind = "" if isinstance(error, ReproError) else f"broke down: {type(error).__name__}: "
            status, text = FAIL, f"{kind}{error}"
        results.append(CheckResult(name, status, " ".join(text.split())))
        logger.info(str(results[-1]))
    return results


def versions() -> Found:
    """This package, its commit, and the packages that compute."""
    check_versions()
    code = code_version()
    packages = ", ".join(f"{name} {number}" for name, number in package_versions().items())
    changes = " with uncommitted changes" if code["dirty"] else ""
    return OK, f"repro {code['repro']}, commit {(code['commit'] or 'unknown')[:12]}{changes}, {packages}"


def device() -> Found:
    """Every device that runs may get here computes; a warning without a GPU."""
    kind = find_device(compose(["experiment=cifar_resnet20"]).machine.device).name  # as $REPRO_DEVICE says
    places = [torch.device(kind, index) for index in range(torch.cuda.device_count() if kind == "cuda" else 1)]
    wrong = [f"{place} does not compute" for place in places if float(torch.ones(2, device=place).sum()) != 2]
    text = ", ".join(describe(place) for place in places)
    if kind == "cpu":
        return WARNING, f"{text}: no GPU is used; the paper's schedules take hours to days"
    return FAIL if wrong else OK, "; ".join(wrong) or text


def disk() -> Found:
    """Runs can be written, and there is space for them."""
    folder = results_dir()
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        return FAIL, f"can't write in {display_path(place)}; name another folder with REPRO_RESULTS"
    free = shutil.disk_usage(place).free // 10**6
    return OK if free >= ENOUGH_DISK else WARNING, (
        f"{free} MB free for {display_path(folder)}; ResNet-1202 takes {ENOUGH_DISK} MB")


def cifar10(root: Path) -> Found:
    """CIFAR-10 is there."""
    place = cifar10_files.folder_in(root)
    if not os.path.isdir(place):
        return SKIPPED, f"not in {display_path(root)}; `repro data fetch cifar10` fetches it, suites do so themselves"
    return OK, f"in {display_path(place)}; each run verifies what it reads (now: `repro data verify`)"


def golden_counts() -> Found:
    """The parameters of every experiment's network, built on the meta device, against golden_counts.yaml."""
    wrong = []
    for name in experiments():
        config = paper_config(name)
        with torch.device("meta"):
            found = sum(parameter.numel() for parameter in build_model(config.model).parameters())
        if (due := counts(config)["parameters"]) not in (None, found):
            wrong.append(f"{name} has {found} parameters, not {due}")
    return FAIL if wrong else OK, "; ".join(wrong) or f"parameters of the networks of {len(experiments())} experiments"


def torchvision_outputs() -> Found:
    """ResNet-18 and ResNet-50 v1.5 in evaluation mode, float64, against torchvision's with the same weights."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=generator)
    wrong = []
    for layers in (18, 50):
        config = compose([f"experiment=imagenet_resnet{layers}", "model.shortcut_option=B", "model.stride_in=conv3x3"])
        ours = build_model(config.model).double().eval()
        for value in ours.state_dict().values():
            if value.dim() == 1:  # batch normalization: scales, shifts and statistics that are nothing special
                value.uniform_(0.5, 1.5, generator=generator)
        theirs = getattr(torchvision.models, f"resnet{layers}")().double().eval()
        theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
        with torch.no_grad():
            expected, found = theirs(images), ours(images)
        if not torch.allclose(expected, found, rtol=1e-9, atol=1e-9):
            wrong.append(f"ResNet-{layers}: outputs up to {(expected - found).abs().max():.3g} apart")
    return FAIL if wrong else OK, "; ".join(wrong) or (
        "outputs of ResNet-18 and ResNet-50 (v1.5) with the same weights, float64, within 1e-9")


class StopAfterThree(StopRequest):
    """Asks for a stop after three updates: the loop looks once before the first, and once after each."""

    looks = -3

    @property
    def reason(self) -> str | None:
        self.looks += 1
        return "SIGTERM" if self.looks > 0 else None


def exact_resume() -> Found:
    """Train the smallest network on synthetic images twice, once with an interruption: the same bits."""
    # what is said goes nowhere
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()), show_messages("stderr"):
        resumed, whole = (plan(compose([*TINY_RUN, f"results={folder}/{name}"])) for name in ("resumed", "whole"))
        with suppress(Stopped):
            train_here(resumed, StopAfterThree())
        ends = [run(one) for one in (resumed, whole)]
        weights, expected = (torch.load(end.folder / "weights.pt", weights_only=True) for end in ends)
        wrong = [name for name, value in expected.items()
                 if weights[name].numpy().tobytes() != value.numpy().tobytes()]
        wrong += ["history.csv"] if ends[0].history() != ends[1].history() else []
        wrong += ["the interruption"] if len(ends[0].record.sessions if ends[0].record else ()) != 2 else []
    return FAIL if wrong else OK, "; ".join(wrong) or f"8 updates: history and {len(expected)} tensors, bit for bit"


def committed_tables() -> Found:
    """Every form of every committed table, made anew from the committed records."""
    if not in_tree():
        return SKIPPED, "an installed package has no tables of its own; a checkout has"
    names = tables.committed_names()
    wrong = tables.changed_files(names, reference_dir())
    return FAIL if wrong else OK, "; ".join(wrong) or f"{len(names)} tables, in every form as their records give them"
