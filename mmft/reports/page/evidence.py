"""What the report of a run is made from: the files of its folder, and the rows as far as they are still there."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from mmft.config.paths import rebase
from mmft.config.plugins import import_plugins
from mmft.config.schema.root import TrainConfig
from mmft.config.schema.task import TaskConfig
from mmft.config.validate import read
from mmft.data.splitting.names import file_of, splits_to_test
from mmft.data.splitting.splits import Split, load_splits
from mmft.errors import UserError
from mmft.reports.page.row_cards import RowCards
from mmft.run_folder import RunFolder
from mmft.tasks.answer_texts import references_of
from mmft.tasks.labels import in_files
from mmft.tasks.part_columns import part_column

Pairs = Counter[tuple[str, str]]
"""Rows by true and predicted class."""


class Evidence:
    """A run as its folder shows it.

    Attributes:
        folder: the run's.
        written: its config, with paths as typed.
        config: the same with absolute paths.
        summary: of summary.json.
        missing: what could not be read, a sentence each.
        splits: the rows by split; empty if they are no longer there.

    Raises:
        UserError: the folder is no run's, or needs plugins that are not allowed.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.written, base = _read_config(folder)
        self.config: TrainConfig = rebase(self.written, base)
        self.summary = folder.read_summary()
        self.missing: list[str] = []
        self.splits: Mapping[str, Split] = {}
        try:
            self.splits = load_splits(self.config.data, self.config.seed)
        except UserError as error:
            self.missing.append(f"The rows cannot be read, so no images and texts are shown: {error}")

    @cached_property
    def cards(self) -> RowCards:
        """Shows rows of `splits`."""
        return RowCards(self.splits, self.config.data)

    @cached_property
    def typed(self) -> list[str]:
        """What was typed after `mmft train`."""
        return self.folder.read_overrides()

    @cached_property
    def tested(self) -> str:
        """The split whose predictions are shown: the first test split, or `val`."""
        named = self.summary.get("tests")
        if self.splits:
            return (splits_to_test(self.splits) or ["val"])[0]
        return f"test/{next(iter(named))}" if named else "test" if self.summary.get("test") else "val"

    @cached_property
    def answers(self) -> list[Answers]:
        """The predictions on `tested`, for each of several tasks."""
        found = self.answers_on(self.tested)
        if not found[0].rows:
            self.missing.append("The run has no predictions.csv, so no single rows are shown.")
        return found

    def answers_on(self, split: str) -> list[Answers]:
        """The predictions on a split, for each of several tasks; without rows if there are none."""
        return answers_on(self.folder, self.config.task, split)


def config_of(folder: RunFolder) -> TrainConfig:
    """A run's config with absolute paths. Raises as `Evidence`."""
    config: TrainConfig = rebase(*_read_config(folder))
    return config


def _read_config(folder: RunFolder) -> tuple[TrainConfig, Path]:
    """A run's config, and the base of its paths.

    Raises:
        UserError: it is unreadable, or needs plugins that are not allowed.
    """
    values = folder.read_config()
    base = Path(values.pop("working_directory", "."))
    import_plugins(values.get("plugins") or (), base, folder.model / "plugins")
    result = read(values, TrainConfig)
    if result.problems:
        raise UserError([f"{problem.key}: {problem.text} (in {folder.config})" for problem in result.problems])
    return result.config, base


def answers_on(folder: RunFolder, task: TaskConfig, split: str) -> list[Answers]:
    """A run's predictions on a split, for each of several tasks; without rows if there are none."""
    rows = [row for row in read_table(folder.path / f"{file_of('predictions', split)}.csv") if not row["error"]]
    return [Answers(name, part, split, rows, folder.path) for name, part in (task.parts or {"": task}).items()]


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none if it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@dataclass(frozen=True)
class Answers:
    """Predictions of one task on rows of one split.

    Attributes:
        name: of the task among several; "" of a single one.
        task: its config, which says what kind its answers are.
        split: the rows'.
        rows: of predictions.csv, without those that have an error.
        folder: the run's.
    """

    name: str
    task: TaskConfig
    split: str
    rows: Sequence[Mapping[str, str]]
    folder: Path = field(default=Path())

    def file(self, name: str) -> Path:
        """The split's file of that name, such as `predictions`."""
        return self.folder / f"{file_of(name, self.split)}.csv"

    def column(self, name: str) -> list[str]:
        """A column of the task: `prediction`, `label`, `score`, `score_<label>`; empty texts where there is nothing."""
        return [self.value(at, name) for at in range(len(self.rows))]

    def value(self, at: int, name: str) -> str:
        """A row's value in such a column."""
        return self.rows[at].get(part_column(name, self.name)) or ""

    @cached_property
    def labelled(self) -> Answers:
        """The rows that have a label for the task."""
        there = [row for row, label in zip(self.rows, self.column("label"), strict=True) if label]
        return replace(self, rows=there)

    def label_sets(self, column: str) -> list[frozenset[str]]:
        """The labels in each row's cell of a column, of which tasks with several have a separator."""
        separator = getattr(self.task, "separator", None)
        cells = self.column(column)
        if separator is None:
            return [frozenset([cell]) for cell in cells]
        return [frozenset(filter(None, cell.split(separator))) for cell in cells]

    @cached_property
    def right(self) -> list[bool | None]:
        """Whether each prediction is right by the row's label; None without a label, or if answers are not just right.

        All of several labels have to be predicted, one of several right answers, one of several references.
        """
        task, labels = self.task, self.column("label")
        if task.pairwise or task.predicts_numbers:
            return [None] * len(labels)
        if task.generates:
            texts = zip(self.column("prediction"), labels, strict=True)
            return [text.strip() in references_of(label) if label else None for text, label in texts]
        sets = zip(self.label_sets("label"), self.label_sets("prediction"), strict=True)
        found = [true == predicted if task.independent_labels else bool(true & predicted) for true, predicted in sets]
        return [right if label else None for right, label in zip(found, labels, strict=True)]

    @cached_property
    def scored(self) -> list[str]:
        """The labels that have a score each."""
        prefix = part_column("score_", self.name) + ("_" if not part_column("score_", self.name).endswith("_") else "")
        return [name.removeprefix(prefix) for name in (self.rows[0] if self.rows else ()) if name.startswith(prefix)]

    @cached_property
    def confusion(self) -> Pairs:
        """Rows by true and predicted class: of the test's own table, or of the predictions without one."""
        prefix = f"{in_files(self.name)}_" if self.name else ""
        matrix = self.file(f"{prefix}confusion_matrix")
        if self.split != "val" and matrix.exists():
            return _of_matrix(matrix)
        pairs = self.file(f"{prefix}confusions")
        if self.split != "val" and pairs.exists():
            return Counter({(row["true"], row["predicted"]): int(row["rows"]) for row in read_table(pairs)})
        labelled = self.labelled
        return Counter(zip(labelled.column("label"), labelled.column("prediction"), strict=True))


def _of_matrix(path: Path) -> Pairs:
    with path.open(newline="", encoding="utf-8") as stream:
        (_, *labels), *rows = csv.reader(stream)
    cells = [(row[0], label, int(count)) for row in rows for label, count in zip(labels, row[1:], strict=True)]
    return Counter({(true, predicted): count for true, predicted, count in cells if count})
