"""`mmft explain run=RUN rows=[3,17] out=FOLDER`: what in a row's image and words supports or opposes its prediction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mmft.commands.output import print_path
from mmft.config.compose import Composed
from mmft.config.schema.root import ExplainConfig
from mmft.config.wording import did_you_mean
from mmft.data.splitting.splits import Split
from mmft.data.table import Table
from mmft.errors import ExitCode, UserError
from mmft.files import located, write_text, written_aside
from mmft.reports.explain.rows import Explained, check_label, with_warnings
from mmft.run.given_run import model_and_rows
from mmft.tasks.labels import in_files


def explain(composed: Composed) -> int:
    """Explains the chosen rows; prints the path of each row's image.

    Returns:
        The exit code. Unreadable rows are reported and have no image.

    Raises:
        UserError: there is no such run, row or label, or the table is unusable.
    """
    config: ExplainConfig = composed.config
    model, data, split = model_and_rows(composed, with_answers=True)
    check_label(model.saved.task, config.label)
    split = _chosen(split, config)
    folder = located(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    for row in with_warnings(model.explained(split, data, config.label, config.points), config.points):
        print_path(_written(folder, row))
    return ExitCode.DONE


def _chosen(split: Split, config: ExplainConfig) -> Split:
    table: Table = split.table
    if config.rows is not None:
        gone = [row for row in config.rows if row >= len(table)]
        if gone:
            raise UserError(f"rows={gone[0]}: the table has rows 0 to {len(table) - 1}.")
        return Split(table, np.unique(np.array(config.rows)))
    ids, asked = table.ids(), config.ids or []
    missing = [name for name in asked if name not in ids]
    if missing:
        raise UserError(f"ids: no row of {table.where} has the id {missing[0]!r}.{did_you_mean(missing[0], ids)}")
    return Split(table, np.array([row for row, name in enumerate(ids) if name in asked]))


def _written(folder: Path, row: Explained) -> Path:
    """Writes a row's image and its numbers; returns the image's path."""
    path = folder / f"row{row.answer['row']}{row.of and '_' + in_files(row.of)}.png"
    with written_aside(path) as new:
        row.page().save(new, format="PNG")
    write_text(path.with_suffix(".json"), json.dumps(row.numbers(), indent=2, ensure_ascii=False))
    return path
