"""The command that explains a configuration or compares it with another one: show."""

import argparse
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from repro.commands.common import Add, program, results_of
from repro.errors import ConfigError

if TYPE_CHECKING:
    from repro.schema import RunConfig
    from repro.training.schedule import Schedule

WARMUPS = {"error80": "until the training error is below {error:g} % over {window} mini-batches, at most {most} "
                      "updates",
           "fixed400": "for {most} updates"}


def register(add: Add) -> None:
    """Add these commands."""
    command = add("show", "show a run's settings, sources, schedule, cost and folder, or what two runs differ in", show)
    command.add_argument("overrides", nargs="+", metavar="key=value | RUN",
                         help="experiment=NAME and overrides; with --against also EXPERIMENT/seedK or a run's folder")
    command.add_argument("--against", metavar="NAME | RUN",
                         help="show what differs from akamaster, fb, torchvision or another experiment; of a run, from "
                              "another run")
    command.add_argument("--config-dir", metavar="DIR", help="a folder with configuration files of your own")
    command.add_argument("--json", action="store_true", help="print JSON")


def arguments_of(options: argparse.Namespace) -> list[str]:
    """The arguments as `repro run` would get them."""
    return [*options.overrides, *(["--config-dir", options.config_dir] if options.config_dir else [])]


def show(options: argparse.Namespace) -> int:
    """`repro show`."""
    if options.against is None:
        if any("/" in word and "=" not in word for word in options.overrides):
            raise ConfigError(f"{options.overrides[0]}: show compares a run with another one: --against RUN")
        return show_settings(options)
    return show_differences(options) if any("=" in word for word in options.overrides) else compare_runs(options)


def show_settings(options: argparse.Namespace) -> int:
    """`repro show experiment=NAME`."""
    from msgspec import to_builtins

    from repro.config import compose, deviations, experiments, files_of, paper_config, with_config_dir
    from repro.reporting.settings import facts_lines, settings, settings_lines, sources
    from repro.training.schedule import Schedule

    overrides = with_config_dir(arguments_of(options))
    config = compose(overrides)
    known = config.name in experiments()
    found = settings(config, sources(files_of(overrides)), given_keys(overrides),
                     paper_config(config.name) if known else None,
                     sources(files_of([f"experiment={config.name}"])) if known else {})
    schedule = Schedule.of(config)
    facts = {"experiment": config.name, "description": config.description, "settings": to_builtins(found),
             "schedule": schedule_facts(config, schedule) if is_trainable(config) else None,
             "cost": cost_facts(config, schedule), "folders": folders(config), "deviations": deviations(config),
             "reproduces": [] if deviations(config) else config.reproduces}
    if options.json:
        print(json.dumps(facts, indent=2))
    else:
        print("\n".join([f"{config.name}: {config.description}", *settings_lines(found), *facts_lines(facts)]))
    return 0


def given_keys(overrides: Sequence[str]) -> dict[str, str]:
    """{key: how it was given} by the environment and by the overrides, which win."""
    from repro.config import ENVIRONMENT
    from repro.schema import FIELDS

    given = {key: f"${name}" for name, key in ENVIRONMENT.items() if os.environ.get(name)}
    names = [override.partition("=")[0].lstrip("+~") for override in overrides]
    return given | {name: "override" for name in names if name in FIELDS}


def is_trainable(config: "RunConfig") -> bool:
    """Whether a network is trained here at all: VGG is there for tests of imported weights."""
    from repro.schema import Family

    return config.model.family is not Family.vgg


def schedule_facts(config: "RunConfig", schedule: "Schedule") -> dict[str, Any]:
    """The schedule as it runs, scaled: rates by interval in iterations and in passes over the training images.

    The passes are null where nobody knows how many images there are, in a wiring test.
    """
    images = training_images(config)
    passes = None if images is None else config.train.mini_batch_size / images
    starts = [0, *(drop for drop in schedule.drops if drop < schedule.iterations)]
    ends = [*starts[1:], schedule.iterations]
    rates = [{"from": start, "to": end, "passes": passes and [round(start * passes, 2), round(end * passes, 2)],
              "lr": schedule.rate(start)} for start, end in zip(starts, ends, strict=True)]
    facts: dict[str, Any] = {"scale": config.scale, "iterations": schedule.iterations,
                             "passes": passes and round(schedule.iterations * passes, 2), "rates": rates,
                             "evaluation_interval": schedule.interval, "warmup": schedule.warmup.name}
    if schedule.warmup.name in WARMUPS:
        facts |= {"warmup_lr": schedule.warmup_lr, "warmup_ends": WARMUPS[schedule.warmup.name].format(
            error=schedule.warmup_error, window=schedule.warmup_window, most=schedule.warmup_max)}
    return facts


def training_images(config: "RunConfig") -> int | None:
    """Images that one pass has: of the split, of ImageNet, or made ones; None of a wiring test, which takes any."""
    from repro.schema import IMAGENET, SYNTHETIC, TRAINING_IMAGES

    if config.data.name == SYNTHETIC:
        from repro.data.synthetic import TRAIN_IMAGES

        return TRAIN_IMAGES
    if config.data.wiring_test:
        return None
    if config.data.name == IMAGENET:
        return TRAINING_IMAGES
    return 45_000 if config.data.split.name == "45k" else 50_000  # Sec. 4.2


def cost_facts(config: "RunConfig", schedule: "Schedule") -> dict[str, Any]:
    """What the run costs: counted, and measured where there is a run or a committed benchmark of it."""
    from repro import paper
    from repro.config import deviations
    from repro.paths import reference_dir
    from repro.reporting.select import pools
    from repro.reporting.settings import counts
    from repro.reporting.status import benchmarks, measured_times
    from repro.wording import duration

    identities = {one["identity"] for one in folders(config)}
    found = pools(results_of(config.results), reference_dir())
    times = measured_times(config.name, identities, schedule.iterations, found)
    times += benchmarks(config.name, reference_dir()) if not deviations(config) else []
    suite = next((name for name in paper.suites() if config.name in paper.suite(name).experiments), None)
    return {**counts(config, schedule.iterations), "suite": suite,
            "times": [{**one, "text": duration(one["seconds"])} for one in times]}

def folders(config: "RunConfig") -> list[dict[str, str]]:
    """Identity and folder of the run in each precision that `auto` may mean."""
    from repro.config import config_hash, with_precision
    from repro.paths import display_path
    from repro.runs import run_folder
    from repro.schema import Device, Precision

    precisions = [config.machine.precision]
    if config.machine.precision is Precision.auto:
        on = {Device.auto: [Precision.fp32, Precision.tf32], Device.cuda: [Precision.tf32]}
        precisions = on.get(config.machine.device, [Precision.fp32])
    resolved = [with_precision(config, precision) for precision in precisions]
    return [{"precision": one.machine.precision.name, "identity": config_hash(one),
             "folder": display_path(run_folder(one))}
            for one in resolved]


def show_differences(options: argparse.Namespace) -> int:
    """`repro show experiment=NAME --against NAME`."""
    from msgspec import to_builtins

    from repro import paper
    from repro.config import compose, experiments, files_of, paper_config, with_config_dir
    from repro.paper import pick
    from repro.reporting.settings import difference_lines, differences, sources

    against = options.against
    pick(against, {name: name for name in (*paper.recipes(), *experiments())}, "recipe or experiment")
    overrides = with_config_dir(arguments_of(options))
    config = compose(overrides)
    recipe = paper.recipe(against) if against in paper.recipes() else None
    kept = [word for word in arguments_of(options) if word.startswith("experiment=")]
    if options.config_dir:
        kept += ["--config-dir", options.config_dir]
    their_words = [*kept, f"recipe={against}"] if recipe else [f"experiment={against}"]
    theirs = with_config_dir(their_words)
    why = {key: source.text for key, source in sources(files_of(theirs)).items()} | (recipe.why if recipe else {})
    standing = paper_config(config.name) if config.name in experiments() else compose(theirs)
    found = differences(config, compose(theirs), standing, why)
    command = " ".join([program(), "run", *their_words])
    missing = list(recipe.not_expressed) if recipe else []
    if options.json:
        print(json.dumps({"experiment": config.name, "against": against, "differences": to_builtins(found),
                          "not_expressed": missing, "command": command}, indent=2))
        return 0
    title = f"{against} ({recipe.repository}, {recipe.dataset}): {recipe.summary}" if recipe else against
    print("\n".join([f"{config.name} against {title}", "", *difference_lines(found, against)]))
    if missing:
        print("\n".join(["", "not expressed by settings:", *(f"  - {text}" for text in missing)]))
    print(f"\ntheirs: {command}")
    return 0


def compare_runs(options: argparse.Namespace) -> int:
    """`repro show RUN --against RUN`."""
    from repro.paths import reference_dir
    from repro.reporting.settings import compare, comparison_lines
    from repro.runs import find_run

    if len(options.overrides) > 1:
        raise ConfigError(f"--against compares one run with another, not {' '.join(options.overrides)}")
    roots = results_of(), reference_dir()
    found = compare(find_run(options.overrides[0], *roots), find_run(options.against, *roots))
    print(json.dumps(found, indent=2) if options.json else "\n".join(comparison_lines(found)))
    return 0
