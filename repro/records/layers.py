"""responses.csv (Figure 7) and gradients.csv against run.json and against the network's layers."""

import hashlib
from collections.abc import Sequence

from repro.checks import FAIL
from repro.record import Responses
from repro.records.reading import Problems, Refused, csv_rows, format_value
from repro.records.submission import Submission
from repro.runs import GRADIENT_COLUMNS, RESPONSE_COLUMNS
from repro.schema import IMAGENET

RESPONSES, GRADIENTS = "responses.csv", "gradients.csv"
CHANNELS = (16, 32, 64)  # Sec. 4.2: filters of the three stages


def check_layers(sent: Submission) -> Problems:
    """Both files: each is there if the record says so, unchanged, and has every layer once."""
    responses = sent.record.responses
    yield from wrong_hash(sent, RESPONSES, responses.sha256 if responses else None)
    yield from wrong_hash(sent, GRADIENTS, sent.record.gradients_sha256)
    if responses is not None:
        yield from wrong_facts(sent, responses)
    for name, check in ((RESPONSES, wrong_responses), (GRADIENTS, wrong_gradients)):
        if name in sent.files:
            try:
                yield from check(sent)
            except Refused as refused:
                yield FAIL, f"{name}: {refused}"


def wrong_hash(sent: Submission, name: str, recorded: str | None) -> Problems:
    """What is wrong with a file that is there, and with one that should be."""
    data = sent.files.get(name)
    if data is None and recorded is not None:
        yield FAIL, f"run.json has the hash of {name}, which was not sent"
    elif data is not None and recorded is None:
        yield FAIL, f"{name} was sent, but run.json has no hash of it"
    elif data is not None and (found := hashlib.sha256(data).hexdigest()) != recorded:
        yield FAIL, f"{name} was changed after the run: SHA-256 {found[:12]}, recorded {str(recorded)[:12]}"


def wrong_facts(sent: Submission, responses: Responses) -> Problems:
    """What run.json says of the responses."""
    if sent.config.data.name == IMAGENET:
        yield FAIL, "layer responses of an ImageNet run: Figure 7 is about CIFAR-10"
    if sent.tested_images not in (None, responses.images) or responses.evaluated_on != sent.tested_on:
        yield FAIL, (f"responses of {responses.images} images of {responses.evaluated_on}; the run is tested on "
                      f"{sent.tested_images} of {sent.tested_on}")


def wrong_responses(sent: Submission) -> Problems:
    """Every 3x3 layer once, with its channels and a spread."""
    rows = csv_rows(sent.files[RESPONSES], RESPONSE_COLUMNS, texts=("name",), whole=("layer", "channels"))
    count = (sent.config.model.depth or 0) - 1
    if (text := wrong_numbering([row["layer"] for row in rows], count)) is not None:
        yield FAIL, f"{RESPONSES} {text}"
        return
    stage = (count - 1) // len(CHANNELS)
    for row in rows:
        due = CHANNELS[max(0, row["layer"] - 2) // stage] if stage else CHANNELS[0]
        if row["channels"] != due:
            yield FAIL, f"{RESPONSES}, layer {row['layer']}: {row['channels']} channels; it has {due}"
        if row["std"] < 0:
            yield FAIL, f"{RESPONSES}, layer {row['layer']}: standard deviation {row['std']:g} is below 0"


def wrong_gradients(sent: Submission) -> Problems:
    """Every weighted layer once, at each of the configured iterations."""
    rows = csv_rows(sent.files[GRADIENTS], GRADIENT_COLUMNS, texts=("name",), whole=("iteration", "layer"))
    due = sorted(sent.schedule.gradients)
    found = list(dict.fromkeys(row["iteration"] for row in rows))
    if found != [iteration for iteration in due if iteration <= sent.schedule.iterations]:
        yield FAIL, f"{GRADIENTS} has iterations {format_value(found)}; the configuration asks for {format_value(due)}"
        return
    for iteration in found:
        layers = [row["layer"] for row in rows if row["iteration"] == iteration]
        if (text := wrong_numbering(layers, sent.config.model.depth or 0)) is not None:
            yield FAIL, f"{GRADIENTS}, iteration {iteration}, {text}"
    if (low := next((row for row in rows if row["norm"] < 0), None)) is not None:
        yield FAIL, f"{GRADIENTS}, iteration {low['iteration']}: a norm of {low['norm']:g} is below 0"


def wrong_numbering(layers: Sequence[int], count: int) -> str | None:
    """Why these are not layers 1 to count; None if they are."""
    if list(layers) == list(range(1, count + 1)):
        return None
    return f"has {len(layers)} layers, or not in order; this network has {count}"
