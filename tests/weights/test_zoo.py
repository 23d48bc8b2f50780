"""The committed weights: whole, with their cards, as good as their records say; the errors that others state."""

import json

import pytest
from torchvision import models

from repro.evaluation.weight_files import facts_path
from repro.files import file_sha256
from repro.paper import second_references
from repro.paths import TREE, reference_dir
from repro.weights.layouts import AKAMASTER_FILES
from repro.weights.listing import files

ZOO = files(reference_dir() / "weights")
README = (TREE / "README.md").read_text(encoding="utf-8")
TORCHVISION = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vgg16", "vgg19")
# Choice: of a record in another precision than fp32, as TF32, so many images near a border may fall to the other side.
NEAR = 5


@pytest.mark.parametrize("path", ZOO, ids=lambda path: path.name)
def test_committed_weights_are_whole_and_of_a_paper_run(path):
    facts = json.loads(facts_path(path).read_text())
    assert facts["sha256"] == file_sha256(path)
    assert facts["labels"] == []
    assert facts["sha256"] in path.with_name(f"{path.name}.md").read_text()
    committed = reference_dir() / "runs" / facts["record"]["experiment"] / f"seed{facts['seed']}" / "run.json"
    assert json.loads(committed.read_text()) == facts["record"]


def test_resnet20_has_the_error_of_its_record(direct, request):
    path = next((path for path in ZOO if path.name.startswith("cifar_resnet20_")), None)
    if path is None:
        pytest.skip("no full-length run is committed yet")
    root = request.getfixturevalue("real_cifar10")
    record = json.loads(facts_path(path).read_text())["record"]
    values = json.loads(direct("eval", f"weights={path}", f"data.root={root}", "machine.precision=fp32", "--json").out)
    expected = record["result"]["test_top1_error"]
    allowed = 0 if record["config"]["machine"]["precision"] == "fp32" else NEAR
    assert abs(values["errors"] - round(expected * values["images"] / 100)) <= allowed


def stated_in_readme():
    """README's rows of errors that others state: {network: error (percent)}.

    What was measured is a count of errors that gives what is stated, with a file that we know by its SHA-256.
    """
    lines = README.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| weights of others"))
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        form, network, error, measured = (cell.strip() for cell in line.strip("|").split("|"))
        network, _, digest = network.removesuffix(".th").partition("-")
        rows[form, network] = float(error)
        if form == "akamaster":
            assert AKAMASTER_FILES[int(network.removeprefix("resnet"))].startswith(digest)
            assert measured == f"{round(100 * float(error))} of 10,000"
        else:
            assert (digest, measured) == ("", "not measured")
    return rows


@pytest.mark.fault(78)
def test_the_stated_errors_are_those_of_akamaster_and_of_torchvisions_metadata():
    theirs = next(source for source in second_references().sources if source.key == "akamaster").errors
    expected = {("akamaster", f"resnet{depth}"): theirs[f"resnet-{depth}"].test for depth in (20, 32, 44, 56)}
    for name in TORCHVISION:
        metrics = models.get_model_weights(name).IMAGENET1K_V1.meta["_metrics"]["ImageNet-1K"]
        expected["torchvision V1", name] = round(100 - metrics["acc@1"], 2)
    assert stated_in_readme() == expected
