"""The command `mmft`: reads what was typed, validates it, and hands it to the sub-command.

Nothing heavy is imported here: help costs a few milliseconds, a config error what composing costs, and
torch is imported only when a run really starts. Exit codes stand in `mmft.errors.ExitCode`.
"""

# ruff: noqa: BLE001 - every error becomes an exit code
from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from mmft import clock
from mmft.errors import ExitCode, UserError, dead_workers
from mmft.launch.messages import report
from mmft.signals import stop_signals

if TYPE_CHECKING:
    from mmft.cli.flags import Flags
    from mmft.config.compose import Composed
    from mmft.runs.listing.filters import Filter


class Command(NamedTuple):
    """One sub-command."""

    summary: str
    module: str  # has a function of the command's name


COMMANDS = {
    "train": Command(
        "fine-tune an image encoder and a text encoder on rows; writes a run folder", "mmft.commands.train"
    ),
    "check": Command(
        "look at config, rows and model without training: every error, bad and repeated rows, what would be trained",
        "mmft.commands.check",
    ),
    "test": Command("evaluate a run on rows", "mmft.commands.test_run"),
    "predict": Command("predict every row of a table with a run", "mmft.commands.predict"),
    "embed": Command("write the embeddings of every row's image and text", "mmft.commands.embed"),
    "explain": Command("draw what in a row's image and words speaks for the prediction", "mmft.commands.explain"),
    "export": Command("write a run's encoders as folders that timm and transformers load", "mmft.commands.export"),
    "runs": Command("list, sort and compare runs; any KEY=VALUE of mmft train is a filter", "mmft.commands.runs"),
    "doctor": Command(
        "look at this machine: packages, devices, folders, and what is wrong with them", "mmft.commands.doctor"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and gives its exit code.

    Args:
        argv: what was typed after `mmft`; None: the process's own.
    """
    try:
        with stop_signals() as request, request.told():
            code = _main(list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()  # a closed pipe shows here
            if code == ExitCode.DONE:
                request.check()  # what has heard a signal and came to its end did not do all of a sweep
            return code
    except BrokenPipeError:  # `mmft train --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    except Exception as error:
        return report(error)


def _main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        from mmft.cli.help import overview

        print(overview({name: command.summary for name, command in COMMANDS.items()}))
        return ExitCode.DONE if argv else ExitCode.USER
    name, *words = argv
    if name in ("-V", "--version", "version"):
        from mmft import __version__

        print(f"mmft {__version__}")
        return ExitCode.DONE
    if name in ("-sc", "--shell-completion"):
        from mmft.cli.completion import complete

        return complete(words, list(COMMANDS))
    if name not in COMMANDS:
        from mmft.config.wording import did_you_mean, listed

        raise UserError(f"{name}: no such command.{did_you_mean(name, COMMANDS)} Commands: {listed(COMMANDS)}")
    return _command(name, words)


def _command(name: str, words: list[str]) -> int:
    from mmft.cli.flags import parse_flags

    flags = parse_flags(words)
    if flags.allow_code:
        from mmft.config.plugins import allow_code

        allow_code()
    if flags.help:
        from mmft.cli.help import command_help

        print(command_help(name, COMMANDS[name].summary))
        return ExitCode.DONE
    if flags.multirun and name != "train":
        raise UserError(f"-m goes with mmft train, not with mmft {name}")
    if flags.cfg or flags.info or flags.hydra_help:
        from mmft.cli.show import show

        show(name, flags)
        return ExitCode.DONE
    if name == "train":
        return _train(flags)
    if name == "runs":
        from mmft.runs.listing.filters import compose_runs

        return _call(name, *compose_runs(flags.overrides, flags.config_dirs))
    return _call(name, _composed(name, flags))


def _composed(name: str, flags: Flags) -> Composed:
    """The command's config; says what was taken because nothing was typed."""
    from mmft.config.compose import DEFAULT_EXPERIMENT, compose

    composed = compose(name, flags.overrides, flags.config_dirs, multirun=flags.multirun)
    if DEFAULT_EXPERIMENT in composed.lines and DEFAULT_EXPERIMENT not in composed.typed:
        print(f"Nothing typed names rows: {DEFAULT_EXPERIMENT}, the shipped sample.", file=sys.stderr)
    return composed


def _call(name: str, composed: Composed, *args: list[Filter]) -> int:
    """The command's function, whose module is imported only here."""
    with dead_workers():
        with clock.importing():
            module = import_module(COMMANDS[name].module)
        return int(getattr(module, name)(composed, *args))


def _train(flags: Flags) -> int:
    """A run gone on with, a new run, or a sweep of runs; of ranks that are there already, only the first reads this."""
    from mmft.ranks import started

    ranks = started()
    if ranks.world == 1:
        return _lead(flags)
    from mmft.launch import leading

    return leading.lead(lambda: _lead(flags)) if ranks.is_first else leading.follow()


def _lead(flags: Flags) -> int:
    """Everything that `mmft train` may be asked for."""
    from mmft.config.compose import compose
    from mmft.launch.start import train_job
    from mmft.runs.naming import make_run_folder

    if flags.resumes:
        # What is not typed is as in the run, so that the config need not be complete.
        partial = compose("train", flags.overrides, flags.config_dirs, partial=True)
        resumed = import_module("mmft.runs.resume").resolve(partial)
        if resumed is not None:
            return train_job(*resumed)
    composed = _composed("train", flags)
    if flags.multirun:
        return int(import_module("mmft.launch.sweep.sweep").sweep(composed, flags.config_dirs))
    return train_job(composed, make_run_folder(composed, sweep=False))
