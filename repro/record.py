"""The type of a run's record (run.json), read and written by `repro.runs`. Never imports torch."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from repro.config import read_config
from repro.errors import ConfigError
from repro.paths import escape
from repro.schema import Precision, RunConfig

SCHEMA = 1
Text = Annotated[str, Meta(max_length=10_000)]
Time = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00\Z")]
Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]
Errors = dict[str, int | float]  # a row: iteration, losses, errors in percent
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Commit = Annotated[str, Meta(pattern=r"^[0-9a-f]{40}\Z")]
ConfigHash = Annotated[str, Meta(pattern=r"^[0-9a-f]{12}\Z")]


class Part(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A mapping in a record; what it lacks is None."""


class Place(Part):
    """On what and how numbers were computed."""

    python: Text | None = None
    torch: Text | None = None
    torchvision: Text | None = None
    hydra_core: Text | None = msgspec.field(default=None, name="hydra-core")
    omegaconf: Text | None = None
    numpy: Text | None = None
    device: Text | None = None
    engine: Text | None = None
    updates_per_graph: Count | None = None
    devices: Count | None = None
    jobs_per_device: Count | None = None  # of earlier records: runs that took turns in one process
    memory_format_ms: dict[str, Seconds] | None = None  # milliseconds of an update, which decided channels_last
    repro: Text | None = None
    commit: Commit | None = None
    dirty: bool | None = None


class Environment(Place):
    """Where the newest session ran."""

    system: Text | None = None
    architecture: Text | None = None
    cores: Count | None = None
    interpreter: Text | None = None
    precision: Text | None = None
    threads: Count | None = None


class Slurm(Part):
    """SLURM's job, and how often it was put back into its queue."""

    job_id: Text
    restarts: Count = 0


class Session(Place):
    """One stretch of training without interruption."""

    started: Time | None = None
    from_iteration: Count | None = None
    ended: Time | None = None
    to_iteration: Count | None = None
    slurm: Slurm | None = None


class Images(Part):
    """What a run was trained and tested on; the SHA-256 of its images, or of ImageNet's names and sizes."""

    name: Text
    split: Text
    sha256: Text
    one_folder: bool = False  # a wiring test, tested on its training images


class Responses(Place, kw_only=True):
    """Of responses.csv (Fig. 7), and where they were measured if that was after the run."""

    images: Count
    evaluated_on: Text
    precision: Text
    sha256: Sha256
    utc: Time | None = None


class Diverged(Part):
    """Where a loss or gradient was no longer finite."""

    iteration: Count
    learning_rate: float
    last_finite_loss: float


class Record(Part, kw_only=True):
    """What run.json holds. Errors in percent, times in seconds or ISO form in UTC."""

    schema: int
    experiment: Text
    seed: Count
    identity: ConfigHash  # config_hash of the configuration
    status: Text  # running, interrupted, finished, diverged or out of memory
    config: RunConfig  # resolved; without this machine's folders
    deviations: list[Text] | None = None  # from the paper's settings
    evaluated_on: Text | None = None
    iterations: Count  # of the whole run
    iteration: Count = 0  # done and saved
    parameters: Count | None = None
    peak_memory_bytes: Count | None = None
    memory_bytes: Count | None = None  # of earlier records: computed
    data: Images | None = None
    environment: Environment = msgspec.field(default_factory=Environment)
    started: Time | None = None
    ended: Time | None = None
    warmup_end: Count | None = None
    sessions: list[Session] = msgspec.field(default_factory=list)
    train_seconds: Seconds = 0.0
    evaluation_seconds: Seconds = 0.0
    diverged: Diverged | None = None
    weights_sha256: Sha256 | None = None
    recomputed_batch_norm: Errors | None = None
    responses: Responses | None = None
    gradients_sha256: Sha256 | None = None
    result: Errors | None = None  # the last row of history.csv
    history_sha256: Sha256 | None = None
    best_on_test: Errors | None = None  # an extra, never the result


def parse_record(content: Any) -> Record:
    """The record in a JSON object; ValueError says what is missing or wrong, or unknown in its configuration."""
    if not isinstance(content, dict):
        raise ValueError("no mapping of keys to values")
    if isinstance(schema := content.get("schema"), int) and schema > SCHEMA:
        raise ValueError(f"record of schema {schema}; this version reads up to {SCHEMA}")
    try:
        content = escape_texts(content)
        record: Record = msgspec.convert(content | {"config": read_config(content.get("config"))}, Record)
    except (msgspec.ValidationError, ConfigError) as error:
        raise ValueError(str(error).replace(" - at `$.", " - at `")) from error
    if record.config.machine.precision is Precision.auto:
        raise ValueError("machine.precision=auto: a run records what that was")
    return record


def escape_texts(value: Any) -> Any:
    """A value of JSON whose texts can be printed anywhere."""
    if isinstance(value, dict):
        return {escape(key): escape_texts(one) for key, one in value.items()}
    if isinstance(value, list):
        return [escape_texts(one) for one in value]
    return escape(value) if isinstance(value, str) else value
