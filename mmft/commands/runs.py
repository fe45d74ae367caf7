"""`mmft runs`: lists, filters, sorts and compares the runs under `paths.runs`.

The commands that it serves: `mmft test run=RUN`, `mmft train resume=RUN`, `mmft train init=RUN`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmft.config.compose import Composed
from mmft.config.schema import RunsConfig, TrainConfig
from mmft.config.walk import key_names
from mmft.errors import ExitCode, UserError
from mmft.files import records_as_csv, write_records
from mmft.run_folder import RunFolder, all_runs, find_run
from mmft.runs.listing.filters import Filter
from mmft.runs.listing.found import MISSING, FoundRun, find_runs, sort_runs
from mmft.runs.listing.table import comparison, comparison_table, records, run_table
from mmft.shipped import located

Record = dict[str, Any]


def runs(composed: Composed, filters: Sequence[Filter]) -> int:
    """Prints the runs.

    Args:
        composed: the command's own keys.
        filters: runs that do not fit all of them are left out.

    Returns:
        The exit code: also 0 where there is no run.

    Raises:
        UserError: nothing to sort by, or fewer than two runs to compare.
    """
    config: RunsConfig = composed.config
    found = _chosen(config, filters)
    if config.compare is not None:
        if len(found) < 2:
            raise UserError(f"compare={_typed(config.compare)}: {len(found)} runs; at least two can be compared.")
        header, lines = comparison(found)
        _write(config.out, lambda: comparison_table(found), [_named(header, line) for line in lines])
        return ExitCode.DONE
    extra = [f.key for f in filters if len(f.values) > 1 and not f.is_group]
    extra += [config.sort] if config.sort not in extra else []
    if found and config.out is None:
        _say("last: what run=last takes.  resume: what mmft train name=NAME resume=last goes on with.")
    if found or config.out is not None:
        _write(config.out, lambda: run_table(found, extra), records(found) if config.out is not None else [])
    return ExitCode.DONE


def _chosen(config: RunsConfig, filters: Sequence[Filter]) -> list[FoundRun]:
    """The runs that are asked for, sorted; says on stderr what is not shown."""
    below = located(config.paths.runs)
    every = find_runs(below)
    there = _named_runs(config.compare, below, every) if config.compare not in (None, "all") else every
    fitting = [run for run in there if config.status in (None, run.status) and all(run.fits(f) for f in filters)]
    ordered = sort_runs(fitting, config.sort, key_names(TrainConfig)) if fitting else []
    shown = ordered if config.limit is None else ordered[: config.limit]
    if not every:
        _say(f"There is no run under {below}. mmft train makes one; paths.runs=FOLDER looks elsewhere.")
    elif not shown:
        _say(f"None of the {len(every)} runs under {below} is like that.")
    elif len(shown) < len(ordered):
        _say(f"{len(shown)} of {len(ordered)} runs; limit=null shows all.")
    return shown


def _named_runs(named: str | list[str] | None, below: Path, every: Sequence[FoundRun]) -> list[FoundRun]:
    """The runs that `compare` names, in that order; a sweep's folder stands for its runs."""
    chosen: list[FoundRun] = []
    for name in [named] if isinstance(named, str) else named or []:
        folder = located(name)
        sweep = name != "last" and folder.is_dir() and not (folder / "summary.json").exists()
        inside = sorted(all_runs(folder), key=lambda run: (len(run.path.name), run.path.name)) if sweep else []
        for run in inside or [_found(name, below)]:
            known = [one for one in every if one.folder.path.resolve() == run.path.resolve()]
            chosen += [one for one in known or [FoundRun(run, run.path.parent.name)] if one not in chosen]
    return chosen


def _found(name: str, below: Path) -> RunFolder:
    try:
        return find_run(name, below)
    except UserError as error:
        raise UserError(str(error).replace("run=", "compare=", 1)) from None


def _typed(compare: str | list[str]) -> str:
    return compare if isinstance(compare, str) else ",".join(compare)


def _named(header: list[str], line: list[Any]) -> Record:
    return {name or "key": None if value is MISSING else value for name, value in zip(header, line, strict=True)}


def _write(out: str | None, table: Any, lines: list[Record]) -> None:
    """The table on stdout, or the records as CSV or JSON lines.

    Args:
        out: as in the config.
        table: gives the table, where one is wanted.
        lines: the records.
    """
    if out is None:
        print(table(), flush=True)
    elif out == "-":
        print(records_as_csv(lines, () if lines else ("run",)), end="", flush=True)
    else:
        write_records(located(out), lines, () if lines else ("run",))
        print(out, flush=True)


def _say(text: str) -> None:
    """On stderr: stdout is the list alone."""
    print(text, file=sys.stderr)
