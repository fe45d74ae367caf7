"""What commands on a finished run share: the run, its `data` config with the command's overrides, and the rows."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, is_dataclass
from typing import Any

from mmft import logs
from mmft.config.paths import rebase, table_files
from mmft.config.schema.data import DataConfig
from mmft.config.schema.root import UseConfig, ZeroShotConfig
from mmft.data.splits import Split, load_rows
from mmft.errors import UserError
from mmft.runs.loaded_model import LoadedModel, load
from mmft.runs.saved_model import SavedModel
from mmft.shipped import located


def model_and_rows(
    config: UseConfig, keep: Collection[str] | None = ()
) -> tuple[LoadedModel, DataConfig, Split]:
    """The command's run and all rows of its table; `keep` as in `load_rows`.

    Raises:
        UserError: there is no such run, or no usable table.
    """
    logs.configure(None)
    model = load(config.run, config.paths.runs, config.trainer.accelerator)
    chosen = getattr(config, "zero_shot", ZeroShotConfig())
    data = data_of_run(model.saved, config.data, without_text=chosen.labels is not None)
    if data.path is None:
        raise UserError("data.path is required: the table of rows. Type data.path=FILE.")
    split = load_rows(data, None, id_is_typed=config.data.columns.id is not None, keep=keep)
    return model.asked(chosen, split), data, split


def data_of_run(saved: SavedModel, given: Any, without_text: bool = False) -> DataConfig:
    """The run's `data` with the command's overrides, and with absolute paths.

    Args:
        saved: the run's model.
        given: `RunData`; null keys are as in the run.
        without_text: the command reads images only.
    """
    data: DataConfig = rebase(saved.config, saved.working_directory).data
    if given.path is not None and not is_own_table(data, given.path):
        data.train = data.val = data.test = data.root = None
    _overlay(data, given)
    if without_text:
        data.columns.text = None
    if given.root is not None:
        data.root = str(located(given.root))
    return data


def is_own_table(data: DataConfig, path: str | list[str]) -> bool:
    """Whether `path` is the table that the run was trained on; `data` is the run's, with absolute paths."""
    own = [] if data.path is None else table_files(data.path)
    return [file.resolve() for file in table_files(path)] == [file.resolve() for file in own]


def _overlay(target: Any, given: Any) -> None:
    for f in fields(given):
        value = getattr(given, f.name)
        if is_dataclass(value):
            _overlay(getattr(target, f.name), value)
        elif value is not None:
            setattr(target, f.name, value)
