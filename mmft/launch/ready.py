"""From what is typed to a job that can start, for the command and for Python alike."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from mmft.config.compose import DEFAULT_EXPERIMENT, Composed, compose
from mmft.run.naming import make_run_folder


def composed(
    command: str, overrides: Sequence[str], config_dirs: Sequence[Path] = (), multirun: bool = False
) -> Composed:
    """The command's config, once its files are checked; reports the default experiment if it was used.

    Raises:
        UserError: with everything that is wrong.
    """
    found = compose(command, overrides, config_dirs, multirun=multirun)
    if DEFAULT_EXPERIMENT in found.lines and DEFAULT_EXPERIMENT not in found.typed:
        print(f"No rows were specified: using {DEFAULT_EXPERIMENT}, the shipped sample.", file=sys.stderr)
    if command not in ("doctor", "cache"):
        import_module("mmft.run.early").check_inputs(found)
    return found


def resumes(overrides: Sequence[str]) -> bool:
    """Whether a run is to be resumed."""
    given = [o.partition("=")[2] for o in overrides if o.lstrip("+").startswith("resume=")]
    return bool(given) and given[-1] != "null"


def resumed_job(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> tuple[Composed, Path] | None:
    """The config and folder of the run that the overrides resume; None if a new run starts.

    Raises:
        UserError: there is no such run, or something typed disagrees with its config.
    """
    if not resumes(overrides):
        return None
    # Keys not typed come from the run, so the config need not be complete.
    partial = compose("train", overrides, config_dirs, partial=True)
    found: tuple[Composed, Path] | None = import_module("mmft.run.resume").resolve(partial)
    return found


def new_job(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> tuple[Composed, Path]:
    """The config of a new run, and its folder, which is created.

    Raises:
        UserError: with everything that is wrong.
    """
    found = composed("train", overrides, config_dirs)
    return found, make_run_folder(found, sweep=False)
