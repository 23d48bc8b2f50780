"""Made-up runs, one of everything that tables tell apart: what tests/reporting/golden shows."""

import shutil
from pathlib import Path

from tests.reporting.conftest import SHORT, SYNTHETIC, write_ensemble, write_evaluation, write_run

AVERAGED = {"recomputed_batch_norm": {"images": 12800, "test_loss": 1.0, "test_top1_error": 8.5}}


def write_runs(yours: Path, reference: Path) -> None:
    """Runs of the user and committed ones."""
    write_cifar(yours, reference)
    for name in ("plain20", "plain56", "resnet20"):
        write_run(yours, f"cifar_{name}", train=60, test=58, precision="bf16", overrides=SHORT)
        write_run(yours, f"cifar_{name}", train=50, test=48, precision="bf16", overrides=SYNTHETIC)
    write_run(reference, "cifar_plain20", train=61, test=59, precision="tf32", overrides=SHORT)
    write_run(yours, "cifar_resnet56", train=61, test=59, precision="tf32", overrides=SHORT)
    write_imagenet(yours, reference)


def write_cifar(yours: Path, reference: Path) -> None:
    """Partial, averaged, better and worse runs, unfinished, changed, torn, doubled and foreign ones."""
    for seed, error in enumerate((6.4, 6.6, 6.8, 6.5)):
        write_run(yours, "cifar_resnet110", seed, test=error, train=0.1)
    write_run(yours, "cifar_resnet20", test=8.7,
              change=AVERAGED | {"best_on_test": {"iteration": 60000, "test_top1_error": 7.9}})
    write_run(yours, "cifar_resnet20", 1, status="diverged")
    write_run(yours, "cifar_resnet20", 2, overrides=("train.lr=0.2",), status="interrupted")
    write_run(yours, "cifar_resnet32", status="interrupted")
    write_run(yours, "cifar_resnet32", 3, test=7.5, precision="bf16")
    write_run(yours, "cifar_resnet32", 5, overrides=SYNTHETIC, folder="cifar_resnet32")
    (write_run(yours, "cifar_resnet44") / "run.json").write_text("{")
    write_run(yours, "cifar_resnet44", 1, overrides=("train.weight_decay=0.0005",), folder="cifar_resnet44")
    copied = write_run(yours, "cifar_resnet56", test=12.0)
    shutil.copytree(copied, copied.with_name("seed7"))
    write_run(yours, "cifar_resnet1202", test=5.0, train=0.05)
    write_run(reference, "cifar_resnet56", test=7.0, device="their device", precision="tf32")
    write_run(reference, "cifar_resnet32", test=7.5, device="their device", precision="tf32")
    for depth, train, test in ((20, 1.0, 9.6), (32, 2.0, 9.8), (56, 4.0, 13.0)):
        write_run(yours, f"cifar_plain{depth}", train=train, test=test, change=AVERAGED if depth == 20 else None)
    write_run(reference, "cifar_plain20", train=1.2, test=9.9, device="their device")


def write_imagenet(yours: Path, reference: Path) -> None:
    """Runs with tests that count, of other images and weights, and without; a wiring test; two ensembles."""
    for name, test in (("plain18", 30.0), ("plain34", 31.0), ("resnet18", 29.9), ("optA", 27.5), ("optB", 27.0)):
        change = {"plain34": {"images": 200}, "resnet18": {"precision": "bf16"}}.get(name, {})
        write_evaluation(write_run(yours, f"imagenet_{name}", test=test), "ten_crop", test - 2.4, 7.7, **change)
    write_evaluation(yours / "runs" / "imagenet_optB" / "seed0", "multi_scale", 21.9, 5.7, data_fingerprint="1")
    write_run(yours, "imagenet_optA", 1, test=27.7)
    write_run(yours, "imagenet_optA", 2, overrides=("machine=smoke",))
    write_run(reference, "imagenet_optC", test=27.0, overrides=("data.root=/no/such/folder",))
    write_evaluation(write_run(reference, "imagenet_resnet152", test=23.0), "multi_scale", 19.4, 4.5)
    write_ensemble(yours)
    write_ensemble(reference, wiring_test=True)
