"""The command `mmft`: parses and validates its arguments, and dispatches to the sub-command.

Nothing heavy is imported here: help takes a few milliseconds, a config error only as long as composing, and torch is
imported only when a run actually starts. Exit codes are defined in `mmft.errors.ExitCode`.
"""

# ruff: noqa: BLE001 - every error becomes an exit code
from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from mmft import clock
from mmft.errors import ExitCode, UserError, dead_workers
from mmft.launch.messages import report
from mmft.signals import stop_signals

if TYPE_CHECKING:
    from mmft.cli.flags import Flags
    from mmft.config.compose import Composed
    from mmft.run.listing.filters import Filter


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code.

    Args:
        argv: the arguments after `mmft`; None: those of the process.
    """
    _replace_what_the_terminal_lacks()
    try:
        with stop_signals() as request, request.as_interruption():
            code = _main(list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()  # raises if the pipe is closed
            if code == ExitCode.DONE:
                request.check()  # after a signal, a sweep may end normally without having done all its runs
            return code
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return ExitCode.DONE
        return report(error)


def _nobody_reads() -> bool:
    """Whether the reader of stdout is gone, as in `mmft train --help | head`; what is left to print is then dropped."""
    gone = select.poll()
    try:
        gone.register(sys.stdout, 0)  # errors are reported unasked
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    except (OSError, ValueError):  # of no file
        return False
    else:
        if not gone.poll(0):
            return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _replace_what_the_terminal_lacks() -> None:
    """Prints `?` for a character that the terminal's encoding does not have, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        from mmft.cli.help import overview

        print(overview())
        return ExitCode.DONE if argv else ExitCode.USER
    name, *words = argv
    if name in ("-V", "--version", "version"):
        from mmft import __version__

        print(f"mmft {__version__}")
        return ExitCode.DONE
    if name in ("-sc", "--shell-completion"):
        from mmft.cli.completion import complete

        return complete(words)
    from mmft.config.schema.root import COMMANDS

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
        from mmft.cli.help import command_help, part_help

        if flags.allow_code:
            from mmft.config.compose import import_typed_plugins

            import_typed_plugins(flags.overrides, flags.config_dirs)

        parts = [word for word in flags.overrides if "=" not in word]
        print(part_help(name, parts) if parts else command_help(name))
        return ExitCode.DONE
    if flags.multirun and name != "train":
        raise UserError(f"-m goes with mmft train only, not with mmft {name}")
    if flags.cfg or flags.info or flags.hydra_help:
        from mmft.cli.show import show

        show(name, flags)
        return ExitCode.DONE
    if name == "train":
        return _train(flags)
    if name == "runs":
        from mmft.run.listing.filters import compose_runs

        return _call(name, *compose_runs(flags.overrides, flags.config_dirs))
    from mmft.launch.ready import composed

    return _call(name, composed(name, flags.overrides, flags.config_dirs))


def _call(name: str, composed: Composed, *args: list[Filter]) -> int:
    """Imports the command's module and calls its function."""
    with dead_workers():
        with clock.importing():
            module = import_module(f"mmft.commands.{name}")
        return int(getattr(module, name)(composed, *args))


def _train(flags: Flags) -> int:
    """Resumes a run, starts one, or starts a sweep; under torchrun or srun, only the first rank parses the flags."""
    from mmft.ranks import started

    ranks = started()
    if ranks.world == 1:
        return _lead(flags)
    from mmft.launch import leading

    return leading.lead(lambda: _lead(flags)) if ranks.is_first else leading.follow()


def _lead(flags: Flags) -> int:
    """Runs `mmft train` in the leading process."""
    from mmft.launch.ready import composed, new_job, resumed_job
    from mmft.launch.start import train_job
    from mmft.run.naming import make_run_folder

    if flags.multirun:
        ready = composed("train", flags.overrides, flags.config_dirs, multirun=True)
        folder = make_run_folder(ready, sweep=True)
        return int(import_module("mmft.launch.sweep.sweep").sweep(ready, flags.config_dirs, folder))
    given = flags.overrides, flags.config_dirs
    return train_job(*(resumed_job(*given) or new_job(*given)))
