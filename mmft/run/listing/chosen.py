"""Which runs `mmft runs` and `mmft.runs` show, by status, filters, order and number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmft.config.schema.root import RunsConfig, TrainConfig
from mmft.config.walk import key_names
from mmft.files import located
from mmft.run.listing.filters import Filter
from mmft.run.listing.found import FoundRun, find_runs, sort_runs
from mmft.run_folder import RunFolder, all_runs, find_run


def chosen_runs(config: RunsConfig, filters: Sequence[Filter]) -> tuple[list[FoundRun], str | None]:
    """The runs that `mmft runs` shows, sorted, and a remark on those that it does not show.

    Raises:
        UserError: the sort key is unknown, or a run that `compare` names is not there.
    """
    below = located(config.paths.runs)
    every = find_runs(below)
    there = _named_runs(config.compare, below, every) if config.compare not in (None, "all") else every
    fitting = [run for run in there if config.status in (None, run.status) and all(run.fits(f) for f in filters)]
    ordered = sort_runs(fitting, config.sort, key_names(TrainConfig)) if fitting else []
    shown = ordered if config.limit is None else ordered[: config.limit]
    remark = None
    if not every:
        remark = f"There are no runs under {below}. mmft train makes one; paths.runs=FOLDER looks elsewhere."
    elif not shown:
        remark = f"None of the {len(every)} runs under {below} matches."
    elif len(shown) < len(ordered):
        remark = f"{len(shown)} of {len(ordered)} runs; limit=null shows all."
    return shown, remark


def _named_runs(named: str | list[str] | None, below: Path, every: Sequence[FoundRun]) -> list[FoundRun]:
    """The runs that `compare` names, in that order; a sweep's folder stands for all its runs."""
    chosen: list[FoundRun] = []
    for name in [named] if isinstance(named, str) else named or []:
        folder = located(name)
        among = name != "last" and folder.is_dir() and not RunFolder(folder).summary.exists()  # a sweep, or others
        inside = sorted(all_runs(folder), key=lambda run: (len(run.path.name), run.path.name)) if among else []
        for run in inside or [find_run(name, below, "compare")]:
            known = [one for one in every if one.folder.path.resolve() == run.path.resolve()]
            chosen += [one for one in known or [FoundRun(run, run.path.parent.name)] if one not in chosen]
    return chosen
