"""evaluations/PROTOCOL.json: tests of the trained ImageNet network, against the run and against themselves."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from repro.checks import FAIL, WARNING
from repro.config import flat, to_dict
from repro.record import Commit, ConfigHash, Count, Sha256, Text, Time, Versions
from repro.records.reading import TESTS, Problems, Refused, format_value, json_of
from repro.records.submission import Submission
from repro.reporting.select import count_problem
from repro.schema import CLASSES, IMAGENET

Percent = Annotated[float, Meta(ge=0, le=100)]
FAR = 0.5  # Choice: points between the run's own test and `repro eval` of the same weights by the same crop


class ViewSettings(Struct, forbid_unknown_fields=True):
    """How a test saw its images."""

    shorter_sides: list[Count]
    crop_size: Count
    normalisation_sha256: Sha256


class Evaluation(Struct, kw_only=True, forbid_unknown_fields=True):
    """What PROTOCOL.json holds."""

    schema: Literal[1]
    protocol: Text
    definition: Text
    experiment: Text
    seed: Count | None
    identity: ConfigHash | None
    deviations: list[Text] | None
    weights_sha256: Sha256
    data_fingerprint: Sha256
    split: Text
    wiring_test: bool
    one_folder: bool
    model: dict[str, Any]
    settings: ViewSettings
    precision: Literal["fp32", "tf32", "bf16", "fp16"]
    decoder: Text = ""  # of earlier records, as images_done
    versions: Versions
    repro: Text | None
    commit: Commit | None
    dirty: bool | None
    device: Text
    images: Count
    classes: Count
    images_done: Count = 0
    top1_errors: Count
    top5_errors: Count
    finished: bool
    val_top1_error: Percent
    val_top5_error: Percent
    probabilities_sha256: Sha256
    labels_sha256: Sha256
    utc: Time


def read_evaluations(files: Mapping[str, bytes]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The tests whose files have the right shape, by protocol, and what is wrong with the others."""
    found: dict[str, dict[str, Any]] = {}
    wrong: list[str] = []
    for name in files:
        if not name.startswith(f"{TESTS}/"):
            continue
        try:
            msgspec.convert(content := json_of(files[name]), Evaluation)
            found[name.removeprefix(f"{TESTS}/").removesuffix(".json")] = content
        except (Refused, msgspec.ValidationError) as error:
            wrong.append(f"{name}: {error}".replace("$.", ""))
    return found, wrong


def check_evaluations(sent: Submission) -> Problems:
    """Every test: of this run and its weights, of all images, with errors that are those of its counts."""
    found, wrong = read_evaluations(sent.files)
    yield from ((FAIL, text) for text in wrong)
    if found and sent.config.data.name != IMAGENET:
        yield FAIL, f"{TESTS}/ belongs to runs of ImageNet; this one is of {sent.config.data.name}"
        return
    for protocol, content in found.items():
        for verdict, text in wrong_test(protocol, content, sent):
            yield verdict, f"{protocol}: {text}"
    if len({content["data_fingerprint"] for content in found.values()}) > 1:
        yield FAIL, "the tests are of different images"


def wrong_test(protocol: str, content: dict[str, Any], sent: Submission) -> Problems:
    """What is wrong with one test."""
    from repro.evaluation.protocols import views_of  # late: it loads torch

    run, config = sent.record, sent.config
    views = views_of(protocol, config.data)
    due = {"protocol": protocol, "definition": views.definition, "experiment": run.experiment, "seed": run.seed,
           "identity": run.identity, "deviations": run.deviations, "split": "val", "classes": CLASSES,
           "one_folder": False}
    for key, value in due.items():
        if content[key] != value:
            yield FAIL, f"{key} is {format_value(content[key])}, not {format_value(value)}"
    for key, value in (("shorter_sides", list(views.shorter_sides)), ("crop_size", views.crop_size)):
        if content["settings"][key] != value:
            yield FAIL, f"settings.{key} is {format_value(content['settings'][key])}, not {format_value(value)}"
    model = to_dict(config.model)
    for key, value in flat(content["model"]).items():
        if key not in model or model[key] != value:
            yield FAIL, (f"its network has {key[:60]} {format_value(value)}, that of the run "
                          f"{format_value(model.get(key))}")
    if (text := count_problem(content)) is not None:
        yield FAIL, f"it {text}"
    if run.weights_sha256 is None:
        yield WARNING, "run.json has no hash of the weights, so nothing says that these are the run's"
    elif content["weights_sha256"] != run.weights_sha256:
        yield FAIL, (f"of other weights: SHA-256 {content['weights_sha256'][:12]}, those of the run "
                      f"{run.weights_sha256[:12]}")
    if content["data_fingerprint"] != (run.data and run.data.sha256):
        yield WARNING, "tested on files of another fingerprint than those that it was trained on"
    yield from odd_test(protocol, content, sent)


def odd_test(protocol: str, content: dict[str, Any], sent: Submission) -> Problems:
    """The test against the run's own one, of one crop from the center."""
    own = (sent.record.result or {}).get("val_top1_error")
    if own is None:
        return
    difference = content["val_top1_error"] - own
    if protocol == "center" and abs(difference) > FAR:
        yield FAIL, (f"{content['val_top1_error']:.2f} % where the run's own test of the same crop gave {own:.2f}: "
                      f"more than {FAR} points apart")
    elif protocol != "center" and difference > FAR:
        yield WARNING, (f"{content['val_top1_error']:.2f} %, which is worse than the run's own test of one crop "
                        f"({own:.2f}); many views usually help")
