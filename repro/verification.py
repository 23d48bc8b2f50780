"""`repro verify`: does this installation compute what it claims? Each check holds it against something independent.

A check returns what it compared, in words; it raises Mismatch with what differs, or Skipped with the reason.
"""

import contextlib
import hashlib
import io
import shlex
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from repro.checks import FAIL, OK, SKIPPED, CheckResult
from repro.config import compose, config_hash, experiments, paper_config, with_precision
from repro.data import cifar10_files
from repro.errors import ReproError, Stopped
from repro.evaluation.analysis import Network, count, networks
from repro.models.resnet import build_model, imagenet_config
from repro.paper import golden_counts, pinned_hashes, published_dir
from repro.paths import data_dir, display_path, in_tree, reference_dir
from repro.records.check import check_record
from repro.reporting import tables
from repro.reporting.tables import half_a_digit
from repro.runs import Run, scan
from repro.schema import Precision, StrideIn
from repro.stopping import StopRequest
from repro.training.launch import run
from repro.training.plan import plan
from repro.training.train import train_here

SHOWN = 5  # differences of one check that are shown
COUNTED = ("cifar10/plain-20", "cifar10/resnet-110-A", "imagenet/plain-34", "imagenet/resnet-34-B",
           "imagenet/resnet-50-B-first_1x1", "imagenet/vgg-16")
UPDATES, STOP_AFTER = 8, 3
TINY_RUN = ("experiment=cifar_resnet110", "data=synthetic", "model.blocks_per_stage=1", "train.mini_batch_size=16",
            "train.batch_norm_group=16", f"train.iterations={UPDATES}", "train.lr_drops=[5,7]", "train.warmup_window=2",
            "train.warmup_max=4", f"evaluation.interval={UPDATES}", "evaluation.responses=false",
            "evaluation.batch_norm_images=0", "evaluation.gradient_iterations=[]", "machine.device=cpu",
            "machine.precision=fp32", "engine=eager")


class Mismatch(Exception):
    """A check found these differences."""

    def __init__(self, differences: list[str]):
        more = [f"and {len(differences) - SHOWN} more"] if len(differences) > SHOWN else []
        super().__init__("; ".join([*differences[:SHOWN], *more]))


class Skipped(Exception):
    """A check has nothing to look at here; the text says why, and what to do about it."""


def checks(root: Path) -> dict[str, Callable[[], str]]:
    """All checks by name, in their order; `root` is the folder that holds the data sets."""
    return {"published numbers": published_numbers, "experiments' hashes": config_hashes, "golden counts": counts,
            "torchvision": torchvision_outputs, "exact resume": exact_resume,
            "CIFAR-10 data": partial(cifar10_data, root), "committed records": committed_records,
            "committed tables": committed_tables}


def perform(name: str, check: Callable[[], str]) -> CheckResult:
    """Carry a check out. One that breaks down has failed."""
    began = time.monotonic()
    try:
        status, text = OK, check()
    except Skipped as reason:
        status, text = SKIPPED, str(reason)
    except (Mismatch, ReproError) as error:
        status, text = FAIL, str(error)
    except Exception as error:
        status, text = FAIL, f"broke down: {type(error).__name__}: {error}"
    return CheckResult(name, status, " ".join(text.split()), seconds=time.monotonic() - began)


def compare(expected: Mapping[str, Any], found: Mapping[str, Any]) -> int:
    """How many values there were to compare; Mismatch with those that differ or are missing on one side."""
    both = {name: (expected.get(name, "nothing"), found.get(name, "nothing")) for name in {**expected, **found}}
    wrong = [f"{name}: expected {one}, found {other}" for name, (one, other) in both.items() if one != other]
    if wrong or not expected:
        raise Mismatch(wrong or ["nothing to compare"])
    return len(expected)


def published_numbers() -> str:
    """The SHA-256 of every file of published numbers against the list beside them."""
    lines = (published_dir() / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    listed = {name: digest for digest, name in map(str.split, lines)}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in published_dir().glob("*.yaml")}
    return f"{compare(listed, found)} files in {display_path(published_dir())}"


def config_hashes() -> str:
    """Whether conf/ still says what the runs of the paper's experiments did, key by key."""
    pinned, known = pinned_hashes(), experiments()
    found = {name: config_hash(with_precision(paper_config(name), Precision.fp32)) for name in pinned if name in known}
    others = [name for name in known if name not in pinned]
    return f"{compare(pinned, found)} experiments" + (f"; not pinned yet: {', '.join(others)}" if others else "")


def name_of(network: Network) -> str:
    """'imagenet/resnet-50-B-conv3x3'."""
    parts = (network.shortcut_option, network.stride_in)
    return "-".join([f"{network.dataset}/{network.key}", *(part.name for part in parts if part)])


def counts() -> str:
    """Layers, parameters and multiply-adds (by torch's own counter) of six networks against the golden counts."""
    golden = golden_counts().by_depth()
    expected, found = {}, {}
    for network in networks():
        if (name := name_of(network)) in COUNTED:
            one, option = golden[network.dataset][network.depth], network.shortcut_option
            counted = count(network)
            total = counted.convolution_multiply_adds + counted.fully_connected_multiply_adds
            key = option.name if option else "A"  # plain networks have the counts of A
            adds = one.multiply_adds[key]
            expected[name] = (network.depth, one.parameters[key], adds)
            near = abs(total - adds) <= half_a_digit(adds)
            found[name] = (counted.layers, counted.parameters, adds if near else total)
    return f"layers, parameters and multiply-adds of {compare(expected, found)} networks"


def torchvision_outputs() -> str:
    """ResNet-18 and ResNet-50 v1.5 in evaluation mode, float64, against torchvision's with the same weights."""
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wrong = []
    for layers in (18, 50):
        ours = scatter_batch_norm(build_model(imagenet_config(layers, stride_in=StrideIn.conv3x3))).double().eval()
        with torch.device("meta"):
            theirs: nn.Module = getattr(torchvision.models, f"resnet{layers}")()
        state = dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True))  # layers in the same order
        theirs.load_state_dict(state, assign=True)
        with torch.no_grad():
            expected, found = theirs.double().eval()(images), ours(images)
        if not torch.allclose(expected, found, rtol=1e-9, atol=1e-9):
            wrong.append(f"ResNet-{layers}: outputs up to {(expected - found).abs().max():.3g} apart")
    if wrong:
        raise Mismatch(wrong)
    return "outputs of ResNet-18 and ResNet-50 (v1.5) with the same weights, float64, within 1e-9"


def scatter_batch_norm(model: nn.Module) -> nn.Module:
    """The model, batch normalization with scales, shifts and statistics that are nothing special."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for name, low, high in (("weight", 0.5, 1.0), ("bias", -0.5, 0.5), ("running_mean", -0.5, 0.5),
                                    ("running_var", 0.5, 2.0)):
                getattr(module, name).data.uniform_(low, high, generator=generator)
    return model


def exact_resume() -> str:
    """Train the smallest network on synthetic images twice, once with an interruption: the same bits."""
    with (tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()),
          contextlib.redirect_stdout(io.StringIO())):
        whole, resumed = train(Path(folder) / "whole"), train(Path(folder) / "resumed", STOP_AFTER)
        sessions = len(resumed.record.sessions) if resumed.record else 0
        expected, found = (hash_results(run) for run in (whole, resumed))
    values = compare(expected | {"sessions": 2}, found | {"sessions": sessions})
    return f"{UPDATES} updates, interrupted after {STOP_AFTER}: history and {values - 2} tensors, bit for bit"


def train(results: Path, stop_after: int | None = None) -> Run:
    """The tiny run with its results in a folder; first up to a stop where it is to be interrupted."""
    planned = plan(compose([*TINY_RUN, f"results={results}"]))
    if stop_after is not None:
        with contextlib.suppress(Stopped):
            train_here(planned, StopAfter(stop_after))
    return run(planned)


class StopAfter(StopRequest):
    """Asks for a stop after so many updates."""

    def __init__(self, updates: int):
        super().__init__()
        self.looks = 0 - updates

    @property
    def reason(self) -> str | None:
        """The loop looks once before the first update, and once after each."""
        self.looks += 1
        return "SIGTERM" if self.looks > 0 else None


def hash_results(run: Run) -> dict[str, str]:
    """The history and the SHA-256 of every tensor that a run leaves behind."""
    state = torch.load(run.folder / "weights.pt", weights_only=True)
    return {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in state.items()} | {
        "history.csv": (run.folder / "history.csv").read_text(encoding="utf-8")}


def cifar10_data(root: Path) -> str:
    """Every pixel and label of CIFAR-10 by SHA-256; Skipped without data."""
    if cifar10_files.find(root) is None:
        where = "" if root == data_dir() else f" {shlex.quote(f'data.root={root}')}"
        raise Skipped(f"CIFAR-10 is not in {display_path(root)}; `repro data fetch cifar10{where}` fetches it")
    arrays = cifar10_files.load(root)  # DataError if a hash differs
    return (f"{len(arrays.train_images):,} training and {len(arrays.test_images):,} test images in "
            f"{display_path(arrays.source)}, SHA-256 {arrays.sha256[:12]}...")


def committed_records() -> str:
    """Every committed record by the checks of `repro verify-record`; an installed package has them too."""
    runs = reference_dir() / "runs"
    folders = [run.folder for run in scan(runs)]
    if not folders:
        raise Skipped(f"no records in {display_path(runs)}")
    wrong = [f"{folder.relative_to(runs)}: {one.check}: {one.text}" for folder in folders
             for one in check_record(folder, folders)[:-1] if one.status == FAIL]
    if wrong:
        raise Mismatch(wrong)
    return f"{len(folders)} records in {display_path(runs)} as `repro verify-record` asks"


def committed_tables() -> str:
    """Every form of every committed table, made anew from the committed records; Skipped without a checkout."""
    if not in_tree():
        raise Skipped("an installed package has no tables of its own; a checkout has")
    names = tables.committed_names()
    wrong = tables.changed_files(names, reference_dir())
    if wrong:
        raise Mismatch([f"{name}: not what the committed records give (`repro table all --reference` writes it)"
                        for name in wrong])
    return f"{len(names)} tables, in every form as the records in {display_path(reference_dir() / 'runs')} give them"
