"""The command that explains a configuration or compares it with another one: show."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from repro.commands.common import Add, program, results_of, runs_of
from repro.errors import ConfigError

if TYPE_CHECKING:
    from repro.schema import RunConfig
    from repro.training.schedule import Schedule


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

    from repro.config import compose, deviations, with_config_dir
    from repro.reporting.settings import cost_facts, facts_lines, folders, settings, settings_lines
    from repro.schema import Family
    from repro.training.schedule import Schedule

    overrides = with_config_dir(arguments_of(options))
    config = compose(overrides)
    found, changes, schedule = settings(config, overrides), deviations(config), Schedule.of(config)
    trained = config.model.family is not Family.vgg  # VGG is there for tests of imported weights
    facts = {"experiment": config.name, "description": config.description, "settings": to_builtins(found),
             "schedule": schedule_facts(config, schedule) if trained else None,
             "cost": cost_facts(config, schedule.iterations, runs_of(results=results_of(config.results))),
             "folders": folders(config), "deviations": changes, "reproduces": [] if changes else config.reproduces}
    print(json.dumps(facts, indent=2) if options.json else "\n".join(
        [f"{config.name}: {config.description}", *settings_lines(found), *facts_lines(facts)]))
    return 0


def schedule_facts(config: "RunConfig", schedule: "Schedule") -> dict[str, Any]:
    """The schedule as it runs, scaled: rates by interval in iterations and in passes over the training images.

    The passes are null where nobody knows how many images there are, in a wiring test.
    """
    from repro.reporting.settings import training_images

    images = training_images(config)
    passes = None if images is None else config.train.mini_batch_size / images
    starts = [0, *(drop for drop in schedule.drops if drop < schedule.iterations)]
    ends = [*starts[1:], schedule.iterations]
    rates = [{"from": start, "to": end, "passes": passes and [round(start * passes, 2), round(end * passes, 2)],
              "lr": schedule.rate(start)} for start, end in zip(starts, ends, strict=True)]
    facts: dict[str, Any] = {"scale": config.scale, "iterations": schedule.iterations,
                             "passes": passes and round(schedule.iterations * passes, 2), "rates": rates,
                             "evaluation_interval": schedule.interval, "warmup": schedule.warmup.name}
    ends_by = {"fixed400": f"for {schedule.warmup_max} updates",
               "error80": f"until the training error is below {schedule.warmup_error:g} % over "
                          f"{schedule.warmup_window} mini-batches, at most {schedule.warmup_max} updates"}
    if schedule.warmup.name in ends_by:
        facts |= {"warmup_lr": schedule.warmup_lr, "warmup_ends": ends_by[schedule.warmup.name]}
    return facts


def show_differences(options: argparse.Namespace) -> int:
    """`repro show experiment=NAME --against NAME`."""
    from msgspec import to_builtins

    from repro import paper
    from repro.config import compose, experiments, files_of, paper_config, with_config_dir
    from repro.reporting.settings import difference_lines, differences, sources

    against = options.against
    paper.pick(against, dict.fromkeys([*paper.recipes(), *experiments()]), "recipe or experiment")
    recipe = paper.recipe(against) if against in paper.recipes() else None
    words = arguments_of(options)
    config = compose(with_config_dir(words))
    their_words = [f"experiment={against}"]
    if recipe:  # of others, for this experiment
        named = [word for word in options.overrides if word.startswith("experiment=")]
        their_words = [*named, *words[len(options.overrides):], f"recipe={against}"]
    theirs = with_config_dir(their_words)
    why = {key: source.text for key, source in sources(files_of(theirs)).items()} | (recipe.why if recipe else {})
    standing = paper_config(config.name) if config.name in experiments() else compose(theirs)
    found = differences(config, compose(theirs), standing, why)
    command = " ".join([program(), "run", *their_words])
    missing = recipe.not_expressed if recipe else ()
    if options.json:
        print(json.dumps({"experiment": config.name, "against": against, "differences": to_builtins(found),
                          "not_expressed": missing, "command": command}, indent=2))
        return 0
    title = f"{against} ({recipe.repository}, {recipe.dataset}): {recipe.summary}" if recipe else against
    lines = [f"{config.name} against {title}", "", *difference_lines(found, against)]
    if missing:
        lines += ["", "not expressed by settings:", *(f"  - {text}" for text in missing)]
    print("\n".join([*lines, "", f"theirs: {command}"]))
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
