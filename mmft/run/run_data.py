"""The rows of a command that uses a run: the run's `data` with the command's overrides. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import fields, is_dataclass
from typing import Any

from mmft.config.compose import Composed
from mmft.config.paths import table_files
from mmft.config.schema.data import DataConfig
from mmft.config.walk import hints
from mmft.config.wording import members
from mmft.files import located


def typed_nulls(composed: Composed) -> set[str]:
    """The keys for which null was typed, which then means null, and not "as in the run"."""
    return {typed.key for typed in composed.parsed if typed.values == [None]}


def data_of_run(own: DataConfig, given: Any, nulls: Set[str] = frozenset(), without_text: bool = False) -> DataConfig:
    """The run's `data` with the command's overrides, and with absolute paths.

    Args:
        own: the run's, with absolute paths; changed in place.
        given: `RunData`, `TestData` or `ServedData`; null keys are as in the run.
        nulls: see `typed_nulls`.
        without_text: the command reads images only.
    """
    tests, path, root = (getattr(given, key, None) for key in ("test", "path", "root"))
    if tests is not None or (path is not None and not is_own_table(own, path)):
        own.path = own.train = own.val = own.test = own.root = None
    columns = given.columns
    if columns.messages is not None:  # in place of the run's questions and answers, and the other way round
        own.columns.text = own.columns.label = None
    elif columns.text is not None or columns.label is not None:
        own.columns.messages = None
    _overlay(own, given, nulls, "data.")
    if without_text:
        own.columns.text = None
    if root is not None:
        own.root = str(located(root))
    return own


def is_own_table(data: DataConfig, path: str | list[str]) -> bool:
    """Whether `path` is the table that the run was trained on; `data` is the run's, with absolute paths."""
    own = [] if data.path is None else table_files(data.path)
    return [file.resolve() for file in table_files(path)] == [file.resolve() for file in own]


def _overlay(target: Any, given: Any, nulls: Set[str], prefix: str) -> None:
    for f in fields(given):
        value, key = getattr(given, f.name), f"{prefix}{f.name}"
        if is_dataclass(value):
            _overlay(getattr(target, f.name), value, nulls, f"{key}.")
        elif value is not None or (key in nulls and type(None) in members(hints(target.__class__)[f.name])):
            setattr(target, f.name, value)
