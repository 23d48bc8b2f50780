"""The identities that the paper's experiments have, pinned in experiments/identities.yaml. Never imports torch."""

from collections.abc import Iterator

from repro.config import experiments, identity, paper_config, with_precision
from repro.paper import parse, read_yaml
from repro.places import experiments_dir, shown
from repro.schema import Precision, RunConfig
from repro.verification.check import Difference, same


def pinned() -> dict[str, str]:
    """The identity of each experiment as the paper has it, in fp32; ConfigError if the file can't be read."""
    path = experiments_dir() / "identities.yaml"
    found: dict[str, str] = parse(dict[str, str], read_yaml(path), shown(path))
    return found


def pinned_configs() -> Iterator[tuple[str, RunConfig]]:
    """The paper's experiments that are there, as they stand in conf/; experiments of your own are none of them."""
    known = experiments()
    for name in pinned():
        if name in known:
            yield name, paper_config(name)


def identities() -> str:
    """Whether conf/ still says what the runs of the paper's experiments did, key by key."""
    known = experiments()
    compared = [Difference(f"{name} (if it is another, its runs are no longer those of the paper)", expected,
                           identity(with_precision(paper_config(name), Precision.fp32)) if name in known
                           else "no such experiment")
                for name, expected in pinned().items()]
    others = [name for name in known if name not in pinned()]
    return f"{same(compared)} experiments" + (f"; not pinned yet: {', '.join(others)}" if others else "")
