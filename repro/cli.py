"""The command line: one subcommand per task, heavy imports inside the command that needs them."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from repro import OLDEST_PYTHON, __version__
from repro.checks import check_versions
from repro.commands import COMMANDS, program
from repro.errors import ConfigError, ReproError, StorageError
from repro.stopping import end_at_signals
from repro.streams import open_streams, show_messages, silence
from repro.wording import escape

if TYPE_CHECKING:
    from repro.schema import RunConfig

DESCRIPTION = """\
Reproduce "Deep Residual Learning for Image Recognition" (arXiv 1512.03385).

  repro suite cifar_plain_vs_res          the central experiment, tables and figures included
  repro run experiment=cifar_resnet20     one run; any key=value of its configuration can follow
  repro status                            experiments, suites, tables and figures, what runs, what is lacking
  repro table table6                      a table: published, reference and yours side by side
"""
RUN_USAGE = """\
usage: repro run experiment=NAME [key=value ...]        one run (again: goes on where it stopped)
       repro run -m experiment=A,B seed=0,1 [...]       a sweep, as Hydra does it
       repro run experiment=NAME --cfg job              the composed configuration, nothing runs

Keys are described in repro/schema.py; the most used ones: seed=0, scale=0.01 (shortens every length alike),
max_seconds=600, resume=never, data.root=FOLDER, data.split=45k, model.shortcut_option=B, model.depth=32,
machine.device=cpu, machine.precision=fp32, --config-dir DIR for configuration files of your own.
REPRO_DATA, REPRO_RESULTS and REPRO_DEVICE stand in for data.root, results and machine.device.
"""


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ConfigErrors with a suggestion for a misspelled subcommand."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError (exit 2)."""
        raise ConfigError(f"{message}\n{self.format_usage().strip()}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors are one message unless REPRO_DEBUG=1.

    Without arguments those of this process are taken, and its signals and standard streams too.
    """
    if arguments is None:
        if "_ARGCOMPLETE" in os.environ:
            from repro.completion import complete

            complete(build_parser())
        open_streams()
        end_at_signals(f"go on with: {shlex.join([program(), *sys.argv[1:]])}")
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        check_current_folder()
        code = dispatch(words)
        sys.stdout.flush()
        return code
    except ReproError as error:
        return fail(f"repro: {error}", error.exit_code)
    except BrokenPipeError:
        silence(sys.stdout)
        return 0
    except OSError as error:
        if error.filename is None:
            silence(sys.stdout)
        what = "can't read or write" if error.filename is None else escape(str(error.filename))[:200]
        return fail(f"repro: {what}: {error.strerror or error}", 5)
    except Exception as error:
        if isinstance(error, UnicodeEncodeError):
            return fail(f"repro: {escape(str(error.object))[:200]}: has characters that can't be written here", 2)
        return fail(f"repro: unexpected error: {type(error).__name__}: {error}\n"
                    "REPRO_DEBUG=1 shows where it happened", 1)


def check_current_folder() -> None:
    """Raise StorageError where the current folder was deleted: every path of a command may be relative to it."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise StorageError("the current folder was deleted or moved away; change to one that is there (cd) and repeat "
                           "the command") from error


def fail(message: str, code: int) -> int:
    """Print the message (or, with REPRO_DEBUG=1, raise the error that is being handled) and return the code."""
    if os.environ.get("REPRO_DEBUG") == "1":
        raise
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)
    return code


def dispatch(arguments: list[str]) -> int:
    """Find the subcommand and call it."""
    if arguments[:1] == ["run"]:
        with show_messages():
            return run(arguments[1:])
    parser = build_parser()
    names = list(dict.fromkeys(name.split()[0] for name in COMMANDS))
    if arguments and not arguments[0].startswith("-") and arguments[0] not in names:
        from repro.config import suggest

        raise ConfigError(f"no command {arguments[0]!r}{suggest(arguments[0], names)}\n"
                          f"there are: {', '.join(names)}")
    if not arguments:
        parser.print_help()
        return 2
    options = parser.parse_args(arguments)
    if sys.version_info[:2] < OLDEST_PYTHON:
        check_versions()
    only_result = getattr(options, "json", False) or arguments[0] == "eval"
    with show_messages("stderr" if only_result else "stdout"):
        return options.handler(options) or 0


def build_parser() -> Parser:
    """The argument parser of the table of commands; a name of two words is a subcommand of the first."""
    parser = Parser(prog="repro", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"repro {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    actions = {}
    for name, (_, text, arguments, handler) in COMMANDS.items():
        first, *rest = name.split()
        if rest and first not in actions:
            outer = commands.add_parser(first, help=f"{first} {rest[0]} ...")
            actions[first] = outer.add_subparsers(metavar="ACTION", required=True)
        command = (actions[first] if rest else commands).add_parser(name.split()[-1], help=text, description=text)
        command.set_defaults(handler=handler)
        for names, settings in arguments:
            command.add_argument(*names, **settings)
    return parser


def one_of_several(arguments: list[str]) -> bool:
    """Whether torchrun or srun may have started this `repro run` as one of several processes that train together."""
    alone = any(argument.lstrip("+") == "devices=1" for argument in arguments)
    return not alone and not {"WORLD_SIZE", "SLURM_STEP_NUM_TASKS"}.isdisjoint(os.environ)


def run(arguments: list[str]) -> int:
    """`repro run`: through the compose API, or through hydra.main where one of Hydra's flags asks for it."""
    if not arguments or "-h" in arguments or "--help" in arguments:
        print(RUN_USAGE, end="")
        return 0 if arguments else 2
    if one_of_several(arguments):  # read when torch is imported: what it logs of a lost connection is C++ frames
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    from repro.config import compose, sweep, with_config_dir

    def train(config: "RunConfig") -> None:
        check_versions()
        from repro.training import launch
        from repro.training.plan import plan

        launch.run(plan(config, [program(), "run", *arguments]))

    words = with_config_dir(arguments)
    if any(word.startswith("-") for word in words):
        sweep(words, train)
    else:
        train(compose(words))
    return 0
