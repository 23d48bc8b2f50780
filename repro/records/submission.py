"""A record that was sent, whose files and types are known to be good: what the further checks look at."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from repro.data.cifar10_files import OFFICIAL
from repro.record import Record
from repro.runs import history_columns
from repro.schema import CIFAR10, IMAGENET, VALIDATION_IMAGES, RunConfig
from repro.training.schedule import Schedule

HELD_OUT = 5_000  # Sec. 4.2: a 45k/5k train/validation split


@dataclass(frozen=True)
class Submission:
    """A record and its files; errors in percent, times in seconds.

    `history` has the rows of history.csv; none where it can't be read, and then `unread` says why.
    """

    folder: Path
    files: dict[str, bytes]
    record: Record
    history: list[dict[str, Any]] = field(default_factory=list)
    unread: str = ""

    @property
    def config(self) -> RunConfig:
        """The recorded configuration."""
        return self.record.config

    @cached_property
    def schedule(self) -> Schedule:
        """The schedule that the configuration gives; with lr_policy=plateau its drops follow from the history."""
        tests = [(row["iteration"], row[f"{self.tested_on}_top1_error"]) for row in self.history]
        return Schedule.of(self.config).after(tests)

    @property
    def tested_on(self) -> str:
        """The split that a run of this configuration is tested on: val on ImageNet and with split=45k, else test."""
        data = self.config.data
        return "val" if data.name == IMAGENET or data.split.name == "45k" else "test"

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of history.csv."""
        return history_columns(self.tested_on, self.config.data.name == IMAGENET)

    @cached_property
    def tested_images(self) -> int | None:
        """Images of that split; None where nobody knows (synthetic images, a wiring test)."""
        data = self.config.data
        if data.name == IMAGENET and not data.wiring_test:
            return VALIDATION_IMAGES
        if data.name == CIFAR10:
            return OFFICIAL.test_count if self.tested_on == "test" else HELD_OUT
        return None
