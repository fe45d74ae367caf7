"""`mmft runs`: lists, filters, sorts and compares the runs under `paths.runs`.

Its output serves `mmft test run=RUN`, `mmft train resume=RUN` and `mmft train init=RUN`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from mmft.commands.output import print_path, utf8_stdout
from mmft.config.compose import Composed
from mmft.config.schema.root import RunsConfig
from mmft.errors import ExitCode, UserError
from mmft.files import located, records_as_csv, write_records, write_text
from mmft.run.listing.chosen import chosen_runs
from mmft.run.listing.filters import Filter
from mmft.run.listing.found import MISSING
from mmft.run.listing.table import comparison, comparison_table, records, run_table

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
    found, remark = chosen_runs(config, filters)
    if remark:
        _say(remark)
    if config.compare is not None:
        if len(found) < 2:
            raise UserError(f"compare={_typed(config.compare)}: {len(found)} runs; a comparison needs at least two.")
        if config.out is not None and config.out.lower().endswith(".html"):
            from mmft.run.listing.comparison_page import comparison_page  # charts, which a list does not need

            write_text(located(config.out), comparison_page(found))
            print_path(located(config.out))
            return ExitCode.DONE
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
