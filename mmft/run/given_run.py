"""What commands on a finished run share: the run, its `data` config with the command's overrides, and the rows."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any

from mmft import logs
from mmft.build import build_store
from mmft.config.compose import Composed
from mmft.config.paths import rebase
from mmft.config.schema.data import DataConfig
from mmft.config.schema.root import AnswerConfig
from mmft.config.schema.use import ModelUseConfig, UseConfig
from mmft.data.splitting.splits import Split, load_rows
from mmft.errors import UserError
from mmft.run.frozen_rows import FrozenRows
from mmft.run.loaded_model import LoadedModel, load
from mmft.run.pretrained_pair import load_pair
from mmft.run.run_data import data_of_run, typed_nulls
from mmft.run_folder import model_folder, short_name


def given_model(composed: Composed) -> LoadedModel:
    """The command's run, with its decoding options, or its pretrained pair, on its device.

    Raises:
        UserError: there is no such run or pair, or it cannot write its answers in this way.
    """
    config: ModelUseConfig = composed.config
    if config.run is not None:
        model = load(config.run, config.paths.runs, config.trainer.accelerator)
    else:
        assert config.model.pair is not None
        columns = config.data.columns
        model = load_pair(config.model.pair, columns.image, columns.text, config.trainer.accelerator)
    if isinstance(config, UseConfig):
        model.frozen = FrozenRows(build_store(config), config.cache.keep)
    return model.decoding(**_decoding(config, typed_nulls(composed))) if isinstance(config, AnswerConfig) else model


def _decoding(config: AnswerConfig, nulls: Collection[str]) -> dict[str, Any]:
    """The keys of `task` that are typed."""
    every = {f.name: getattr(config.task, f.name) for f in fields(config.task)}
    return {name: value for name, value in every.items() if value is not None or f"task.{name}" in nulls}


def model_and_data(composed: Composed) -> tuple[LoadedModel, DataConfig]:
    """The command's run, and its `data` with the command's overrides.

    Raises:
        UserError: there is no such run.
    """
    config: ModelUseConfig = composed.config
    logs.configure(None)
    model = given_model(composed)
    chosen = config.zero_shot if isinstance(config, AnswerConfig) else None
    return model, data_of_command(composed, model, without_text=chosen is not None and chosen.labels is not None)


def name_of_model(config: ModelUseConfig) -> str:
    """The run as `name/date_time`, or the pair's name."""
    if config.run is None:
        return str(config.model.pair)
    return short_name(folder_of_model(config))


def folder_of_model(config: ModelUseConfig) -> Path:
    """The folder of the command's run; of a model that was moved out of one, its own."""
    folder = model_folder(str(config.run), config.paths.runs).absolute()
    return folder.parent if folder.name == "model" else folder


def data_of_command(composed: Composed, model: LoadedModel, without_text: bool = False) -> DataConfig:
    """The run's `data` with the command's overrides and absolute paths; `without_text`: texts are not read."""
    own = rebase(model.saved.config, model.saved.working_directory).data
    return data_of_run(own, composed.config.data, typed_nulls(composed), without_text)


def model_and_rows(
    composed: Composed, keep: Collection[str] | None = (), with_answers: bool = False
) -> tuple[LoadedModel, DataConfig, Split]:
    """The command's run and all rows of its table; `keep` as in `load_rows`.

    `with_answers`: whether the labels of a task that generates are read, too.

    Raises:
        UserError: there is no such run, or no usable table.
    """
    config: UseConfig = composed.config
    model, data = model_and_data(composed)
    chosen = config.zero_shot if isinstance(config, AnswerConfig) else None
    if data.path is None:
        raise UserError("data.path is required: the table of rows. Type data.path=FILE.")
    labels = with_answers and model.saved.task.facts.generates
    split = load_rows(data, None, config.data.columns.id is not None, keep, with_labels=labels)
    return model if chosen is None else model.asked(chosen, split), data, split
