"""`mmft.load`: a finished run in Python.

model = mmft.load("runs/mine/2026-11-22_10-00-00")
model.predict([{"image": "a.jpg", "title": "a red bird"}])
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from mmft.config.paths import rebase
from mmft.config.schema.data import DataConfig
from mmft.data.loading import make_batches
from mmft.data.splits import Split, inputs_only, whole
from mmft.data.table import Table
from mmft.hardware import device_of, has_bf16
from mmft.inference import full_precision, outputs_of
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.run_folder import find_run
from mmft.saved_model import SavedModel, load_model
from mmft.shipped import located


class LoadedModel:
    """A finished model.

    Attributes:
        saved: model, task, config.
        device: where it runs.
        labels: label names, in the order of the scores; none where the task has no labels.

    Raises:
        UserError: a GPU is asked for and there is none.
    """

    def __init__(self, saved: SavedModel, accelerator: str = "auto") -> None:
        self.saved = saved
        self.device = device_of(accelerator)
        self.labels: list[str] = list(saved.task.state().get("labels", []))

    @property
    def model(self) -> VisionLanguageModel:
        """The torch module."""
        return self.saved.model

    def predict(self, rows: Any, root: str | Path = ".") -> Any:
        """Predicts rows, one answer for each in the same order, in float32 (float64 after a run in 64-true).

        The precision of training is left aside, so that a row's answer does not depend on the rows beside it.

        Args:
            rows: a list of dicts, a pandas DataFrame or an Arrow table, with the columns of the run.
            root: folder that picture paths are relative to.

        Returns:
            The answers in the type of `rows`: `row`, `id`, `prediction`, `score`, `error`, and what
            the task adds, such as `score_<label>`.
        """
        config = self.saved.config.data
        table = Table.from_rows(rows, inputs_only(config.columns), Path(root))
        answers = list(self.answers(whole(table), config))
        return _as(rows, answers, self.columns())

    def answers(self, split: Split, config: DataConfig) -> Iterator[dict[str, Any]]:
        """One answer per row of `split`, in order; a row that cannot be read has an `error` and no prediction."""
        model, task = self.saved.model, self.saved.task
        precision = full_precision(self.saved.config.trainer.precision)
        for batch, outputs in outputs_of(model, self.batches(split, config), self.device, precision):
            found = {} if outputs is None else dict(zip(batch.row.tolist(), task.answers(outputs), strict=True))
            wrong = {bad.row: f"{bad.column}: {bad.reason}" if bad.column else bad.reason for bad in batch.bad}
            for row in sorted(found.keys() | wrong.keys()):
                empty = dict.fromkeys(self.columns())
                answer = found.get(row, {}) | {"error": wrong.get(row)}
                yield empty | {"row": row, "id": split.table.id(row)} | answer

    def batches(self, split: Split, config: DataConfig) -> Any:
        """Batches of a split without targets, as the model wants them."""
        return make_batches(split, config, **self.input_options())

    def input_options(self) -> dict[str, Any]:
        """What `make_batches` must know of the model and the device."""
        return {
            "tokenizer": self.model.text_encoder.tokenizer,
            "max_length": self.model.text_encoder.max_length,
            "image_size": self.model.image_encoder.image_size,
            "pin": self.device.type == "cuda",
        }

    @property
    def test_precision(self) -> str:
        """What `mmft test` evaluates in: the run's precision if the device has it in hardware, else float32."""
        precision = self.saved.config.trainer.precision
        return precision if precision != "bf16-mixed" or has_bf16(self.device) else full_precision(precision)

    def columns(self) -> list[str]:
        """Names of an answer's columns."""
        return ["row", "id", *self.saved.task.answer_columns, "error"]


def load(run: str | Path, runs: str | Path = "runs", accelerator: str = "auto") -> LoadedModel:
    """Loads a finished run.

    Args:
        run: a run folder, its `model` folder, or `last`, the newest run under `runs`.
        runs: where `last` is looked for.
        accelerator: `auto`, `cpu` or `gpu`.

    Raises:
        UserError: there is no such run, it has no finished model, a frozen encoder is not found, or a GPU is
            asked for and there is none.
    """
    folder = located(run)
    if (folder / "model.safetensors").exists():
        return LoadedModel(load_model(folder), accelerator)
    return LoadedModel(load_model(find_run(str(run), located(runs)).model), accelerator)


def data_of_run(saved: SavedModel, given: Any) -> DataConfig:
    """The run's `data`, with the keys that are given for this command; the run's paths made absolute.

    Args:
        saved: the run's model.
        given: `RunData`; a key left null is as in the run.
    """
    data: DataConfig = rebase(saved.config, saved.working_directory).data
    if given.path is not None and not is_own_table(data, given.path):
        data.train = data.val = data.test = data.root = None
    _overlay(data, given)
    for name in ("path", "root"):
        if getattr(given, name) is not None:
            setattr(data, name, str(located(getattr(given, name))))
    return data


def is_own_table(data: DataConfig, path: str) -> bool:
    """Whether `path` is the table that the run was trained on; `data` is the run's, its paths absolute."""
    return data.path is not None and located(path).resolve() == Path(data.path).resolve()


def _overlay(target: Any, given: Any) -> None:
    for f in fields(given):
        value = getattr(given, f.name)
        if f.name == "columns":
            _overlay(target.columns, value)
        elif value is not None:
            setattr(target, f.name, value)


def _as(rows: Any, answers: list[dict[str, Any]], columns: list[str]) -> Any:
    if isinstance(rows, list):
        return answers
    module = type(rows).__module__.partition(".")[0]
    named = {name: [answer[name] for answer in answers] for name in columns}
    if module == "pandas":
        import pandas as pd

        return pd.DataFrame(named, index=rows.index)
    if module == "pyarrow":
        import pyarrow as pa

        return pa.table(named)
    return answers
