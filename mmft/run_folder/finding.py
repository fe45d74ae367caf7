"""How to find a run and its finished model again: by path, by `last`; and what people call it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmft.errors import UserError
from mmft.files import located
from mmft.run_folder.folder import SUMMARY, SWEEP, RunFolder


def find_run(run: str, runs: Path, key: str = "run") -> RunFolder:
    """Finds a run by path, or by `last`: the newest by start time under `runs` that has a model.

    Runs that failed or were stopped have none, so they do not hide an earlier completed one.

    Raises:
        UserError: there is no such run.
    """
    if run == "last":
        if found := newest(one for one in all_runs(runs) if one.model.is_dir()):
            return found
        raise UserError(f"{key}=last: no finished run under {runs}. Train one, or set paths.runs.")
    folder = RunFolder(located(run))
    if folder.config.exists():
        return folder
    if not folder.path.exists():
        raise UserError(f"{key}={run}: there is no such folder. mmft runs lists the runs")
    within = sorted(one.path for one in all_runs(folder.path))[:3] if folder.path.is_dir() else []
    there = f"; in it are {', '.join(map(str, within))} ..." if within else ""
    raise UserError(f"{key}={run}: {folder.path} is not a run folder (it has no config.yaml){there}")


def short_name(run: Path) -> str:
    """What people call a run, wherever it lies: `mine/2026-11-01_10-00-00`, the last two parts of its folder."""
    return "/".join(run.absolute().parts[-2:])


def model_folder(run: str | Path, runs: str | Path) -> Path:
    """The `model` folder of a finished run: `run` is the run's folder, its `model`, or `last`.

    Raises:
        UserError: there is no such run, or it has no model.
    """
    if (located(run) / "model.safetensors").exists():
        return located(run)
    folder = find_run(str(run), located(runs))
    if not folder.model.is_dir():
        status = folder.peek().get("status", "unknown")
        raise UserError(
            f"{folder.path} has no finished model: its status is {status}, and a run has a model once it is completed."
        )
    return folder.model


def init_folder(run: str, runs: Path) -> Path:
    """The `model` folder of the run that `init` names: as `model_folder`, but `last` is the newest completed run.

    Raises:
        UserError: there is no such run, or it has no model.
    """
    if run == "last":
        if found := newest(other for other in all_runs(runs) if other.is_completed):
            return found.model
        raise UserError(f"init=last: there is no completed run under {runs}.")
    inner = RunFolder(Path(run)).model
    folder = inner if inner.is_dir() else Path(run)
    if not (folder / "config.json").is_file():
        raise UserError(f"init={run}: there is no finished model. A run has one once it is completed.")
    return folder


def is_sweep(folder: Path) -> bool:
    """Whether this is the folder of a sweep."""
    return (folder / SWEEP).is_file()


def all_runs(runs: Path) -> Iterator[RunFolder]:
    """Yields every run folder below `runs`: `<name>/<date_time>` or, in a sweep, `<name>/<date_time>/<number>`."""
    for folder, inner, files in os.walk(runs):
        if SUMMARY in files:
            inner.clear()  # runs are not nested
            yield RunFolder(Path(folder))


def newest(runs: Iterable[RunFolder]) -> RunFolder | None:
    """The run that started last."""
    return max(runs, key=lambda run: str(run.peek().get("started", "")), default=None)


def newest_unfinished(runs: Path) -> RunFolder | None:
    """The run below `runs` that `resume=last` resumes; None if all are completed or there are none.

    A run without its config cannot be resumed and is skipped; one that failed before its first checkpoint is the last
    choice.
    """
    begun = [(run, run.peek().get("status")) for run in all_runs(runs) if run.config.is_file()]
    unfinished = [(run, status) for run, status in begun if status not in ("completed", "pruned")]
    trained = [run for run, status in unfinished if status != "failed" or run.newest_checkpoint(thorough=False)]
    return newest(trained) or newest(run for run, _ in unfinished)
