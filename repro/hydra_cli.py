"""`repro run` with Hydra's own flags (-m, --cfg, --info ...), through hydra.main: sweepers and launchers work."""

import argparse
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from repro.config import (
    check_override_keys,
    environment_overrides,
    one_message,
    quote,
    quote_paths,
    to_run_config,
    with_config_dir,
)
from repro.errors import ConfigError, Stopped
from repro.hydra_guard import FLAGS, guard_composition, not_utf8
from repro.paths import conf_dir, results_dir


class SweepStopped(BaseException):
    """Carries a Stopped through Hydra, which after an Exception would go on with the next job of the sweep."""

    def __init__(self, stopped: Stopped):
        super().__init__()
        self.stopped = stopped


def run_hydra(arguments: list[str], command: list[str]) -> int:
    """Hand the command line to hydra.main; each job trains as `repro run` does. Exit code 0, errors as exceptions.

    A job that is stopped (a signal, max_seconds) ends the sweep; `command`, what a person typed, goes on with it.
    """
    def job(node: DictConfig) -> None:
        from repro.training.launch import run
        from repro.training.plan import plan

        try:
            run(plan(to_run_config(node), command))
        except Stopped as error:
            raise SweepStopped(error) from error

    admit_lazy_help()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us as exceptions instead of exit code 1
    saved, handlers = sys.argv, logging.root.handlers[:]
    arguments = with_config_dir(arguments)
    overrides = [a for a in arguments if not a.startswith("-") and ("=" in a or a.startswith("~"))]
    check_override_keys(overrides)
    flags = [a for a in arguments if a not in overrides]
    refused = [flag for flag in flags if flag.startswith("-") and flag.split("=")[0] not in FLAGS]
    if refused:
        raise ConfigError(f"no flag {refused[0]!r}\nof Hydra's there are: {', '.join(FLAGS)}, --config-dir")
    sys.argv = ["repro run", *environment_overrides(), f"hydra.sweep.dir={quote(str(sweep_folder(overrides)))}",
                *quote_paths(overrides), *flags]  # argparse wants all overrides in one row
    try:
        with guard_composition():
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    except UnicodeDecodeError as error:
        raise ConfigError(f"no UTF-8: {', '.join(map(str, not_utf8(overrides)))} ({error})") from error
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        raise ConfigError(one_message(error)) from error
    except SweepStopped as carrier:
        raise carrier.stopped from None
    finally:
        sys.argv, logging.root.handlers[:] = saved, handlers  # Hydra's own would go on writing to the stream of today
    return 0


def sweep_folder(arguments: list[str]) -> Path:
    """Where Hydra leaves multirun.yaml, one folder for each sweep."""
    results = [a.partition("=")[2].strip("'\"") for a in arguments if a.startswith("results=")]
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return results_dir(results[-1] if results else None) / "sweeps" / f"{stamp}-{os.getpid()}"


def admit_lazy_help() -> None:
    """Let Hydra 1.3.8's help objects through argparse's check of help texts, which Python 3.14 added."""
    check = getattr(argparse.ArgumentParser, "_check_help", None)
    if check is None or getattr(check, "admits_lazy_help", False):
        return

    def check_text_only(self: argparse.ArgumentParser, action: Any) -> None:
        if isinstance(action.help, str):
            check(self, action)

    check_text_only.admits_lazy_help = True  # type: ignore[attr-defined]
    argparse.ArgumentParser._check_help = check_text_only  # type: ignore[attr-defined]
