"""What the files that a command reads show to be wrong before torch is imported, which takes seconds.

Columns that a table lacks, a run without a model, and names that timm does not have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from mmft.config.compose import Composed
from mmft.config.paths import rebase, tables_of
from mmft.config.schema.data import DataConfig
from mmft.config.schema.report import ReportConfig, ReviewConfig
from mmft.config.schema.root import (
    DemoConfig,
    ExportConfig,
    ServeConfig,
    TestConfig,
    TrainConfig,
    ZeroShotConfig,
)
from mmft.config.schema.use import ModelUseConfig
from mmft.config.validate import read
from mmft.config.wording import listed
from mmft.data.header import wrong_columns
from mmft.errors import UserError
from mmft.files import located
from mmft.models.loading.timm_names import unknown_timm_model
from mmft.run.run_data import data_of_run, typed_nulls
from mmft.run_folder import find_run, init_folder, is_sweep, model_folder

_EXTRAS = {ServeConfig: ("serve", ("fastapi", "python_multipart", "uvicorn")), DemoConfig: ("demo", ("gradio",))}


def check_inputs(composed: Composed) -> None:
    """Checks what can be checked without torch; the command itself reports the rest.

    Raises:
        UserError: with everything that is wrong.
    """
    config = composed.config
    wrong: list[str] = []
    if isinstance(config, TrainConfig):
        wrong = list(_wrong_in_training(rebase(config, Path.cwd())))
    elif isinstance(config, ModelUseConfig):
        _check_installed(config)
        own = _data_of_pair() if config.run is None else _data_of(model_folder(config.run, config.paths.runs))
        wrong = _wrong_in_rows(composed, own)
    elif isinstance(config, ExportConfig):
        model_folder(config.run, config.paths.runs)
    elif isinstance(config, ReviewConfig) or (isinstance(config, ReportConfig) and not is_sweep(located(config.run))):
        find_run(config.run, located(config.paths.runs))
    if wrong:
        raise UserError(wrong)


def _check_installed(config: ModelUseConfig) -> None:
    extra, packages = _EXTRAS.get(type(config), ("", ()))
    if missing := [name for name in packages if find_spec(name) is None]:
        raise UserError(f"mmft {extra} needs {listed(missing)}. Type: pip install 'mmft[{extra}]'")


def _wrong_in_training(config: TrainConfig) -> Iterator[str]:
    name = config.model.image_encoder.name
    if not Path(name).is_dir() and (text := unknown_timm_model(name)):
        yield f"model.image_encoder.name: {text}"
    for key, files in tables_of(config.data).items():
        yield from wrong_columns(files, config.data.columns, key, config.data.reading)
    if config.init not in (None, "last"):  # the newest at the time of training
        try:
            init_folder(config.init, Path(config.paths.runs))
        except UserError as error:
            yield str(error)


def _wrong_in_rows(composed: Composed, own: DataConfig | None) -> list[str]:
    """Messages about the columns of the command's tables; `own`: the run's `data`, if known."""
    config: ModelUseConfig = composed.config
    tables = tables_of(config.data)
    if own is None or not tables:
        return []
    chosen = getattr(config, "zero_shot", ZeroShotConfig())
    data = data_of_run(own, config.data, typed_nulls(composed), without_text=chosen.labels is not None)
    columns, optional = data.columns, {"split", "weight", "group"}
    if not isinstance(config, TestConfig):
        columns = replace(columns, label=None, split=None, weight=None, group=None)
    if config.data.columns.id is None:
        optional.add("id")
    found = (wrong_columns(files, columns, key, data.reading, optional) for key, files in tables.items())
    return [message for messages in found for message in messages]


def _data_of_pair() -> DataConfig:
    """The `data` of a pretrained pair, for which no key is set."""
    data: DataConfig = read({}, TrainConfig, partial=True).config.data
    return data


def _data_of(model: Path) -> DataConfig | None:
    """The `data` of a run, with absolute paths; None if its config is left to the command, as with plugins."""
    try:
        content = json.loads((model / "config.json").read_text(encoding="utf-8"))
        result = read(content["config"], TrainConfig)
        base = Path(content["working_directory"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if result.problems else rebase(result.config, base).data
