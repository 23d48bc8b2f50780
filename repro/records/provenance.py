"""What a record says of code, network and images against what is known of them, and other records like it."""

from collections.abc import Mapping

from repro.checks import FAIL, WARNING
from repro.data.cifar10_files import OFFICIAL
from repro.errors import ConfigError
from repro.paper import golden_count
from repro.records.history import NAME as HISTORY
from repro.records.layers import GRADIENTS, RESPONSES
from repro.records.reading import Problems, Refused, format_value, json_of
from repro.records.submission import Submission
from repro.schema import CIFAR10, CLASSES, IMAGENET, SYNTHETIC, Family

UNKNOWN = "was not recorded, so nobody can look at the code that ran"


def check_code(sent: Submission) -> Problems:
    """Commits, uncommitted changes and versions of every session."""
    seen: set[str] = set()
    for number, session in enumerate(sent.record.sessions, 1):
        found = []
        if session.commit is None:
            found.append(f"the commit {UNKNOWN}")
        if session.dirty:
            found.append("the tree had uncommitted changes")
        elif session.dirty is None and session.commit is not None:
            found.append("whether the tree had uncommitted changes was not recorded")
        found += [f"the version of {name} was not recorded" for name in ("python", "torch", "torchvision", "numpy")
                  if getattr(session, name) is None]
        for text in found:
            if text not in seen:
                yield WARNING, f"session {number}: {text}"
            seen.add(text)
    commits = {session.commit for session in sent.record.sessions}
    if len(commits) > 1:
        yield WARNING, f"the sessions ran {len(commits)} different commits"


def check_parameters(sent: Submission) -> Problems:
    """The number of parameters against the golden count of the network."""
    model = sent.config.model
    option = "A" if model.family is Family.plain else model.shortcut_option.name
    classes = CLASSES if sent.config.data.name == IMAGENET else 10
    try:
        due = golden_count(IMAGENET if classes == CLASSES else CIFAR10, model.depth or 0).parameters.get(option)
    except ConfigError:
        due = None
    if due is None or model.num_classes != classes:
        yield WARNING, (f"{sent.record.parameters:,} parameters of a network that golden_counts.yaml does not "
                        "have: not compared")
    elif sent.record.parameters != due:
        yield FAIL, (f"{sent.record.parameters:,} parameters; this network of {model.depth} layers, option "
                      f"{option}, has {due:,} (golden_counts.yaml)")


def check_data(sent: Submission) -> Problems:
    """The data set, its split and its hash."""
    data, config = sent.record.data, sent.config.data
    assert data is not None  # REQUIRED
    if config.name == SYNTHETIC:
        yield FAIL, "synthetic images are no evidence about CIFAR-10"
    if config.wiring_test or data.one_folder:
        yield FAIL, "a wiring test is no evidence about ImageNet"
    for key, due in (("name", config.name), ("split", config.split.name)):
        if (said := getattr(data, key)) != due:
            yield FAIL, f"data.{key} is {format_value(said)}, that of the configuration {due}"
    if config.name == CIFAR10 and data.sha256 != OFFICIAL.sha256:
        yield FAIL, (f"the images have SHA-256 {data.sha256[:12]}, those of CIFAR-10 as published "
                      f"{OFFICIAL.sha256[:12]}")


def check_copies(sent: Submission, others: Mapping[str, Mapping[str, bytes]]) -> Problems:
    """The weights, histories or layer statistics of other records (their files by name): no two seeds share them."""
    for name, files in others.items():
        try:
            other = json_of(files.get("run.json", b""))
        except Refused:
            other = {}
        shared = [file for file in (HISTORY, RESPONSES, GRADIENTS)
                  if file in sent.files and sent.files[file] == files.get(file)]
        for what, columns in (("losses", (2, 4)), ("errors", (3, 5))):
            rows = columns_of(sent.files, columns)
            equal = len(rows & columns_of(files, columns))
            if HISTORY not in shared and equal > len(rows) / 2:
                shared.append(f"the {what} of {equal} of {len(rows)} tests")
        if (own := sent.record.weights_sha256) and own == other.get("weights_sha256"):
            shared.append("the weights' SHA-256")
        if shared:
            copied = other.get("seed", sent.record.seed) != sent.record.seed
            yield FAIL if copied else WARNING, (f"it shares {', '.join(shared)} with {name}: the same run again, or a "
                                                 "copy under another name; no two seeds share them")


def columns_of(files: Mapping[str, bytes], columns: tuple[int, int]) -> set[tuple[bytes, ...]]:
    """The iteration and two columns of every row of a history, those of training and test, as they are written."""
    rows = [line.split(b",") for line in files.get(HISTORY, b"").splitlines()[1:]]
    return {(row[0], *(row[column] for column in columns)) for row in rows if len(row) > max(columns)}
