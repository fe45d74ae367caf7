"""What a finished model says of a run's own test rows: `predictions.csv`, and for retrieval `nearest.csv`."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmft.config.schema.data import DataConfig
from mmft.data.splitting.names import file_of, splits_to_show
from mmft.data.splitting.splits import Split
from mmft.data.spread import spread_evenly
from mmft.files import written_aside
from mmft.run.by_row import stacked
from mmft.run.loaded_model import LoadedModel
from mmft.tasks.base import Task
from mmft.tasks.part_columns import part_column

log = logging.getLogger(__name__)
MOST_ROWS, MOST_GENERATED, MOST_CELLS = 5_000, 200, 1_000_000
"""Size of `predictions.csv`; of a larger split, as many rows spread evenly over it. Writing texts takes longer."""
_QUERIES, _NEAREST = 6, 5
_FEW = 2_000  # rows that are read sooner than processes to read them start
Floats = npt.NDArray[np.float32]


def write_predictions(folder: Path, model: LoadedModel, splits: Mapping[str, Split], config: DataConfig) -> None:
    """Predicts the test rows, of each table those of its own file, or without any the validation rows.

    The columns are those of `mmft predict`, and `label`; of several tasks, `label_<task>`, too. Predictions are in
    float32, as in `mmft predict`.

    Args:
        folder: the run's.
        model: finished.
        splits: the run's.
        config: how rows are read, with absolute paths.
    """
    if model.saved.task.captions_of is not None:  # there are no texts to compare an image with
        model = model.zero_shot(model.labels)
    tested = splits_to_show(splits)
    generates = model.saved.task.facts.generates
    most = min(MOST_GENERATED if generates else MOST_ROWS, max(MOST_CELLS // len(model.columns()), 1))
    for name in tested:
        split = _some(splits[name], most)
        if len(split) < len(splits[name]):
            log.info("predictions.csv has %s of %s rows of %s", f"{len(split):,}", f"{len(splits[name]):,}", name)
        reading = replace(config, num_workers=0) if len(split) <= _FEW else config
        _write(folder / f"{file_of('predictions', name)}.csv", _predicted(model, split, reading))
        if model.saved.task.facts.pairwise:
            _write(folder / f"{file_of('nearest', name)}.csv", _nearest(model, split, reading))


def _some(split: Split, most: int) -> Split:
    """At most so many rows, spread evenly, since a table may be sorted by label."""
    if len(split) <= most:
        return split
    return Split(split.table, split.rows[spread_evenly(len(split), most)])


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    first = next(rows, None)
    if first is None:
        return
    with written_aside(path) as new, new.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, first, lineterminator="\n")
        writer.writeheader()
        writer.writerow(first)
        writer.writerows(rows)


def _predicted(model: LoadedModel, split: Split, config: DataConfig) -> Iterator[dict[str, Any]]:
    """A split's predictions in order, with labels."""
    task = model.saved.task
    labels = dict(zip(split.rows.tolist(), split.table.labels(split.rows), strict=True))
    for answer in model.answers(split, config):
        yield answer | _shown(task, labels[answer["row"]])


def _shown(task: Task, label: Any) -> dict[str, Any]:
    """The label of a row, and of each of several tasks; None where it is missing or unusable."""
    columns = {"label": _or_none(task, label)} if "" in task.parts else {"label": None}
    for name, part in task.parts.items():
        if name:
            columns[part_column("label", name)] = _or_none(part, label.get(name) if isinstance(label, dict) else None)
    return columns


def _or_none(task: Task, label: Any) -> Any:
    try:
        return task.shown_label(label)
    except ValueError:
        return None


def _nearest(model: LoadedModel, split: Split, config: DataConfig) -> Iterator[dict[str, Any]]:
    """The nearest images of some texts, and the nearest texts of some images, by the cosine of embeddings."""
    rows = [row for row in model.embeddings(split, config) if row["error"] is None]
    there = [row for row in rows if row["image"] is not None and row["text"] is not None]
    if not there:
        return
    embedded = stacked(there, model.embedded)
    numbers = [row["row"] for row in there]
    for query, others in (("text", "image"), ("image", "text")):
        for at in spread_evenly(len(there), _QUERIES).tolist():
            scores = embedded[others] @ embedded[query][at]
            order = np.argsort(-scores, kind="stable")
            place = int(np.flatnonzero(order == at)[0]) + 1
            for rank, found in enumerate(order[:_NEAREST].tolist(), 1):
                yield {
                    "query": query,
                    "row": numbers[at],
                    "own_rank": place,
                    "rank": rank,
                    "found": numbers[found],
                    "score": float(scores[found]),
                }
