"""What `repro bench input` measures: contenders, rounds, images and workers. Never imports torch."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from repro.bench.plan import QUICK_ROUNDS, ROUNDS, number
from repro.config import suggest
from repro.errors import ConfigError

PLAIN, COLOR = "plain", "pillow_colour"
LOADERS = ("threads", "processes")
CONTENDERS = (PLAIN, "pillow", COLOR, *(f"pillow:{kind}" for kind in LOADERS))
KEYS = ("data.root", "rounds", "images", "workers")
SHORTER_SIDE, SIZE = (256, 480), 224  # Sec. 3.4: pixels
IMAGES, QUICK_IMAGES = 400, 60  # Choice: about 2 s of the plain way on one core; a few, to see that it works


@dataclass(frozen=True)
class InputSettings:
    """What was asked for. root None: images made here; workers None: one for each core."""

    root: str | None
    rounds: int
    images: int
    workers: int | None
    quick: bool


@dataclass(frozen=True)
class InputJob:
    """One fresh process: `contender` reads `images` images below `root`, a folder of class folders."""

    contender: str
    root: str
    images: int
    workers: int

    def text(self) -> str:
        """This job as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> "InputJob":
        """The job of a line."""
        return cls(**json.loads(text))


def input_settings(words: Sequence[str], quick: bool) -> InputSettings:
    """The settings of `repro bench input WORDS`; ConfigError for a key or value that there isn't."""
    given = dict(word.partition("=")[::2] for word in words)
    for key in given:
        if key not in KEYS:
            raise ConfigError(f"bench input: no key {key!r}{suggest(key, list(KEYS))}\nthere are: {', '.join(KEYS)}")
    numbers = {key: number(key, given[key]) for key in KEYS[1:] if key in given}
    return InputSettings(given.get("data.root"), numbers.get("rounds", QUICK_ROUNDS if quick else ROUNDS),
                         numbers.get("images", QUICK_IMAGES if quick else IMAGES), numbers.get("workers"), quick)
