"""Creates the run folder `<paths.runs>/<name>/<date_time>`, in exactly one process."""

from __future__ import annotations

import itertools
from datetime import datetime
from pathlib import Path

from mmft.config.compose import Composed
from mmft.errors import UserError
from mmft.files import located
from mmft.run_folder import LOCK, STUDY


def run_name(composed: Composed) -> str:
    """The run's name: `name`, else the experiment's, else the command's."""
    if composed.config.name is not None:
        return str(composed.config.name)
    return composed.choices.get("experiment", composed.command).rpartition("/")[2]


def make_run_folder(composed: Composed, *, sweep: bool) -> Path:
    """Creates a new folder for a run or a sweep, never one that another run has.

    Two runs that start in the same second get `<date_time>` and `<date_time>-1`. A search resumes in its earlier folder
    if `hydra.sweep.dir` names it.

    Raises:
        UserError: the folder cannot be created.
    """
    key = "hydra.sweep.dir" if sweep else "hydra.run.dir"
    wanted = [o.partition("=")[2].strip("'\"") for o in composed.typed if o.lstrip("+").startswith(f"{key}=")]
    searches = composed.sweep is not None and composed.sweep.sweeper.type == "optuna"
    if wanted and searches and (located(wanted[-1]) / STUDY).is_file():
        return located(wanted[-1])
    try:
        return _make_exactly(located(wanted[-1]), key) if wanted else _make_dated(composed)
    except OSError as error:
        where = key if wanted else "paths.runs"
        raise UserError(f"{where}: cannot create the folder {error.filename}: {error.strerror}") from error


def _make_exactly(folder: Path, key: str) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{key}: {folder} exists and is not empty; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / LOCK).touch(exist_ok=False)
    except FileExistsError:
        raise UserError(f"{key}: {folder} was just taken by another command; name a new folder") from None
    return folder


def _make_dated(composed: Composed) -> Path:
    parent = located(composed.config.paths.runs) / run_name(composed)
    parent.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for suffix in ("", *(f"-{n}" for n in itertools.islice(itertools.count(1), 1000))):
        folder = parent / f"{stamp}{suffix}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise UserError(f"paths.runs: more than 1000 runs started in {parent} in one second")
