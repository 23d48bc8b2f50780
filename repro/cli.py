"""The command line: finds the command in the table of `repro.commands`, calls it, and turns errors into exit codes."""

import os
import shlex
import sys
from collections.abc import Sequence

from repro import __version__
from repro.checks import check_versions
from repro.commands import COMMANDS, Parser
from repro.errors import ConfigError, ReproError, suggest
from repro.stopping import end_at_signals
from repro.streams import open_streams, show_messages, silence

GROUPS = {"train": "repro suite cifar_plain_vs_res", "evaluate": "repro eval cifar_resnet20/seed0",
          "results": "repro table table6", "data": "repro data fetch cifar10", "setup": "repro check"}  # examples


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors are one message unless REPRO_DEBUG=1.

    Without arguments those of this process are taken, and its signals and standard streams too.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        if "_ARGCOMPLETE" in os.environ:
            complete()
        open_streams()
        end_at_signals(f"go on with: repro {shlex.join(words)}")
    try:
        code = call(words)
        sys.stdout.flush()
        return code
    except ReproError as error:
        return fail(f"{error}", error.exit_code)
    except SystemExit as end:  # of argparse, here or in Hydra
        return end.code if isinstance(end.code, int) else 0
    except OSError as error:
        if error.filename is None:  # a stream: what is in its buffer would fail again
            silence(sys.stdout)
        if isinstance(error, BrokenPipeError):
            return 0
        return fail(f"can't read or write: {error}", 5)
    except Exception as error:
        return fail(f"unexpected error: {type(error).__name__}: {error}\nREPRO_DEBUG=1 shows where it happened", 1)


def fail(message: str, code: int) -> int:
    """Print the message (or, with REPRO_DEBUG=1, raise the error that is being handled) and return the code."""
    if os.environ.get("REPRO_DEBUG") == "1":
        raise
    try:
        print(f"repro: {message}", file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)
    return code


def call(words: list[str]) -> int:
    """Find the command, parse its arguments and call it."""
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"repro {__version__}")
        return 0
    if words[0] not in COMMANDS and words[1:] in (["-h"], ["--help"]) and (actions := actions_of(words[0])):
        print("\n".join(COMMANDS[name].format_help() for name in actions))
        return 0
    name = find_command(words)
    rest = words[len(name.split()):]
    options = COMMANDS[name].parse_intermixed_args([] if name == "run" else rest)
    options.command = ["repro", *words]
    if name == "run":  # its words are Hydra's
        options.words = rest
    if options.group != "results":
        check_versions()
    with show_messages("stderr" if getattr(options, "json", False) or name == "eval" else "stdout"):
        return options.handler(options) or 0


def actions_of(word: str) -> list[str]:
    return [name for name in COMMANDS if name.startswith(f"{word} ")]


def find_command(words: Sequence[str]) -> str:
    """The name, of one or two words, with which a command line begins; ConfigError where there is none."""
    pair = " ".join(words[:2])
    if pair in COMMANDS or words[0] in COMMANDS:
        return pair if pair in COMMANDS else words[0]
    first = dict.fromkeys(name.split()[0] for name in COMMANDS)
    actions = actions_of(words[0])
    meant = suggest(words[0], list(first)) if not actions else ""
    raise ConfigError(f"no command {pair if actions else words[0]!r}{meant}\nthere are: {', '.join(actions or first)}")


def overview() -> str:
    """What `repro --help` says, on one screen."""
    lines = ["usage: repro COMMAND ...        repro COMMAND --help says more", "",
             'Reproduce "Deep Residual Learning for Image Recognition" (arXiv 1512.03385).']
    for group, example in GROUPS.items():
        lines += ["", f"{group + ':':17} {example}"]
        lines += [f"  {name:15} {parser.description}" for name, parser in COMMANDS.items()
                  if parser.get_default("group") == group]
    return "\n".join(lines)


def complete() -> None:
    """Answer the shell that asks by its environment (`eval "$(register-python-argcomplete repro)"`), and end."""
    import argcomplete

    from repro import config, paper
    from repro.reporting import figures, tables

    known = {"suite": ["pending", *paper.suites()], "claims": paper.suites(), "ensemble": paper.ensembles(),
             "table": ["all", *tables.names()], "figure": ["all", *figures.names()]}
    typed = os.environ["COMP_LINE"][:int(os.environ["COMP_POINT"])].split(" ")[1:-1]  # the last is being typed
    name = next((one for one in (" ".join(typed[:2]), *typed[:1]) if one in COMMANDS), "")
    parser = COMMANDS[name] if name else Parser()
    if not name:
        name = " ".join(typed[:1])
        parser.add_argument("command", choices=[
            one.removeprefix(name).split()[0] for one in COMMANDS if one.startswith(f"{name} " if name else "")])
    words = known.get(name) or [f"experiment={one}" for one in config.experiments()]
    os.environ["_ARGCOMPLETE"] = str(1 + len(name.split()))  # the word that stands for the program
    completer = argcomplete.completers.ChoicesCompleter(dict.fromkeys(words, ""))
    argcomplete.autocomplete(parser, default_completer=completer)
