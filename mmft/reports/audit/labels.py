"""Label distribution over the splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmft.config.schema.data import names_of
from mmft.data.splitting.splits import Split
from mmft.reports.aligned import aligned
from mmft.tasks.base import Task

MOST = 30
"""Labels with a line of their own."""
_WIDEST = 60  # characters of a label that is shown


NamesOf = Callable[[Any], Sequence[str]]
"""A task's `label_names(label)`: the names in a row's label; raises `ValueError`."""


def _in_a_cell(label: str) -> str:
    """A label on one line, cut if it is long, such as an answer."""
    line = " ".join(label.split())
    return line if len(line) <= _WIDEST else f"{line[:_WIDEST]}…"


def tables_of(splits: Mapping[str, Split], task: Task) -> dict[str, str]:
    """Tables about the rows that a task learns from, by title.

    Args:
        splits: by name.
        task: built, not fitted.
    """
    if task.captions_of is not None:
        return {"labels": label_table(splits, task.label_names)}
    if task.facts.needs_both:
        return {"pairs": pair_table(splits)}
    found = {}
    for name, part in task.parts.items():
        column = name or None
        named = part.facts.has_label_names
        table = label_table(splits, part.label_names, column) if named else number_table(splits, column)
        found[f"labels of {column}" if column else "labels"] = table
    return found


def label_table(splits: Mapping[str, Split], names_of: NamesOf, column: str | None = None) -> str:
    """One line per label, most frequent first: its rows and its share in each split.

    Args:
        splits: by name.
        names_of: the task's; a row may have several names.
        column: label column, if several tasks have one each; None for the only one.
    """

    def labels(split: Split) -> Iterator[Any]:
        for label in split.table.labels(split.rows):
            yield label if column is None else label[column]

    counts = {
        name: Counter(one for label in labels(split) for one in _names(label, names_of))
        for name, split in splits.items()
    }
    total: Counter[str] = sum(counts.values(), Counter())
    lines = [
        [_in_a_cell(label), *(_share(counts[name][label], len(split)) for name, split in splits.items())]
        for label, _ in total.most_common(MOST)
    ]
    if len(total) > MOST:
        rest = [label for label, _ in total.most_common()[MOST:]]
        lines.append([f"{len(rest)} others", *(str(sum(counts[name][label] for label in rest)) for name in splits)])
    return aligned([["label", *splits], *lines], right=range(1, len(splits) + 1))


def pair_table(splits: Mapping[str, Split]) -> str:
    """Per split: rows with both modalities, distinct images and texts, and groups of more than one row."""
    lines = []
    for name, split in splits.items():
        pairs = [pair for pair in split.table.pairs(split.rows) if pair.image is not None and pair.text is not None]
        groups = Counter(pair.group for pair in pairs if pair.group is not None)
        counts = (
            len(pairs),
            len({pair.image for pair in pairs}),
            len({pair.text for pair in pairs}),
            sum(count > 1 for count in groups.values()),
        )
        lines.append([name, *(f"{count:,}" for count in counts)])
    return aligned([["split", "pairs", "images", "texts", "groups of several"], *lines], right=range(1, 5))


def number_table(splits: Mapping[str, Split], only: str | None = None) -> str:
    """For each column of numbers and each split: count, mean, standard deviation, quartiles and extremes.

    `only` restricts it to one column; None shows all.
    """
    header = ["label", "split", "numbers", "mean", "std", "min", "25%", "50%", "75%", "max"]
    lines = []
    for name, split in splits.items():
        for column, numbers in _numbers(split).items():
            if only not in (None, column):
                continue
            spread = np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1]) if len(numbers) else np.full(5, np.nan)
            mean, std = (numbers.mean(), numbers.std()) if len(numbers) else (np.nan, np.nan)
            lines.append([column, name, f"{len(numbers):,}", *(f"{value:.4g}" for value in (mean, std, *spread))])
    return aligned([header, *sorted(lines, key=lambda line: line[0])], right=range(2, len(header)))


def _numbers(split: Split) -> dict[str, npt.NDArray[np.float64]]:
    """The finite numbers of a split's labels, by column."""
    names = names_of(split.table.columns.label)
    labels = split.table.labels(split.rows)
    rows = [list(label.values()) if isinstance(label, dict) else [label] for label in labels]
    columns = zip(*([_number(value) for value in row] for row in rows), strict=True)
    found = {name: np.array(column) for name, column in zip(names, columns, strict=True)}
    return {name: column[np.isfinite(column)] for name, column in found.items()}


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _share(count: int, rows: int) -> str:
    return f"{count:,} ({count / max(rows, 1):.1%})"


def _names(label: Any, names_of: NamesOf) -> list[str]:
    """The table lines that count a row."""
    try:
        return list(dict.fromkeys(names_of(label))) or ["(none)"]
    except ValueError:
        return ["(missing)" if label is None else "(not usable)"]
