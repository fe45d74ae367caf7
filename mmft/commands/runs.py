"""`mmft runs`: lists, filters, sorts and compares the runs under `paths.runs`.

Its output serves `mmft test run=RUN`, `mmft train resume=RUN` and `mmft train init=RUN`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmft.commands.output import print_path, utf8_stdout
from mmft.config.compose import Composed
from mmft.config.schema.root import RunsConfig, TrainConfig
from mmft.config.walk import key_names
from mmft.errors import ExitCode, UserError
from mmft.files import located, records_as_csv, write_records
from mmft.run.listing.filters import Filter
from mmft.run.listing.found import MISSING, FoundRun, find_runs, sort_runs
from mmft.run.listing.table import comparison, comparison_table, records, run_table
from mmft.run_folder import RunFolder, all_runs, find_run

Record = dict[str, Any]


def runs(composed: Composed, filters: Sequence[Filter]) -> int:
    """Prints the runs.

    Args:
        composed: the command's own keys.
        filters: runs must match all of them.

    Returns:
        The exit code, 0 also if there are no runs.

    Raises:
        UserError: the sort key is unknown, or fewer than two runs are compared.
    """
    config: RunsConfig = composed.config
    found = _chosen(config, filters)
    if config.compare is not None:
        if len(found) < 2:
            raise UserError(f"compare={_typed(config.compare)}: {len(found)} runs; a comparison needs at least two.")
        header, lines = comparison(found)
        _write(config.out, lambda: comparison_table(found), [_named(header, line) for line in lines])
        return ExitCode.DONE
    extra = [f.key for f in filters if len(f.values) > 1 and not f.is_group]
    extra += [config.sort] if config.sort not in extra else []
    if found and config.out is None:
        _say("last: selected by run=last.  resume: resumed by mmft train name=NAME resume=last.")
    if found or config.out is not None:
        _write(config.out, lambda: run_table(found, extra), records(found) if config.out is not None else [])
    return ExitCode.DONE


def _chosen(config: RunsConfig, filters: Sequence[Filter]) -> list[FoundRun]:
    """The selected runs, sorted; reports on stderr what is not shown."""
    below = located(config.paths.runs)
    every = find_runs(below)
    there = _named_runs(config.compare, below, every) if config.compare not in (None, "all") else every
    fitting = [run for run in there if config.status in (None, run.status) and all(run.fits(f) for f in filters)]
    ordered = sort_runs(fitting, config.sort, key_names(TrainConfig)) if fitting else []
    shown = ordered if config.limit is None else ordered[: config.limit]
    if not every:
        _say(f"There are no runs under {below}. mmft train makes one; paths.runs=FOLDER looks elsewhere.")
    elif not shown:
        _say(f"None of the {len(every)} runs under {below} matches.")
    elif len(shown) < len(ordered):
        _say(f"{len(shown)} of {len(ordered)} runs; limit=null shows all.")
    return shown


def _named_runs(named: str | list[str] | None, below: Path, every: Sequence[FoundRun]) -> list[FoundRun]:
    """The runs that `compare` names, in that order; a sweep's folder stands for all its runs."""
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
    """Prints the table, or writes the records as CSV or JSON lines.

    Args:
        out: as in the config.
        table: returns the table if it is wanted.
        lines: the records.
    """
    if out is None:
        print(table(), flush=True)
    elif out == "-":
        print(records_as_csv(lines, () if lines else ("run",)), end="", flush=True, file=utf8_stdout())
    else:
        write_records(located(out), lines, () if lines else ("run",))
        print_path(located(out))


def _say(text: str) -> None:
    """Prints to stderr, since stdout is for the list alone."""
    print(text, file=sys.stderr)
