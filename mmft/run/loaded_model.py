"""`mmft.load`: a finished run in Python.

model = mmft.load("runs/mine/2026-11-22_10-00-00")
model.predict([{"image": "a.jpg", "title": "a red bird"}])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmft.config import plugins
from mmft.config.schema.data import DataConfig
from mmft.config.schema.root import ExplainConfig, ZeroShotConfig
from mmft.config.wording import kind_of
from mmft.data.splitting.splits import Split, whole
from mmft.errors import UserError
from mmft.logs import quiet_bitsandbytes
from mmft.reports.explain.rows import Explained, check_label, with_warnings
from mmft.run import chat, zero_shot
from mmft.run.as_it_was import as_it_was
from mmft.run.by_row import stacked
from mmft.run.decoding import with_decoding
from mmft.run.given_rows import as_given, table_from, with_conversations
from mmft.run.index.folder import Kind
from mmft.run.index.index import Find, Index
from mmft.run.model_on_device import ModelOnDevice
from mmft.run.saved_model import load_model
from mmft.run_folder import model_folder
from mmft.tuning.quantize import is_quantized


class LoadedModel(ModelOnDevice):
    """A finished model, asked with rows."""

    def __repr__(self) -> str:
        config, count = self.saved.config, sum(one.numel() for one in self.model.parameters())
        names = [config.model.image_encoder.name, config.model.text_encoder.name]
        encoders = " and ".join(dict.fromkeys(Path(str(name)).name for name in names))
        labels = f", {len(self.labels)} labels" if self.labels else ""
        fusion = config.model.fusion.type
        return f"<{config.task.type} model of {encoders}, fusion {fusion}{labels}, {count:,} parameters, {self.device}>"

    def predict(self, rows: Any, root: str | Path = ".") -> Any:
        """Predicts rows in the same order, in float32 (float64 after a run in 64-true).

        The training precision is not used, so that a prediction does not depend on the other rows of its batch.

        Args:
            rows: dicts in any iterable, a DataFrame of pandas or polars, an Arrow table, or a data set of `datasets`,
                with the run's image and text columns, or its column of conversations. An image is a path, encoded
                bytes, a binary file, a Pillow image, or an array or tensor of uint8 or of floats from 0 to 1 with its
                channels first or last; None if missing. Without the id column, rows are identified by number; without
                the image or the text column, they lack that modality.
            root: base folder of relative image paths.

        Returns:
            The predictions in the type of `rows`: `row`, `id`, `prediction`, `score`, `error`, and task-specific
            columns such as `score_<label>`.

        Raises:
            UserError: the run was trained on captions of labels, so there are no texts to compare an image with.
        """
        zero_shot.check_texts(self.saved)
        answers = list(self.answers(*self._given(rows, root)))
        return as_given(rows, answers, self.columns())

    def zero_shot(self, labels: Sequence[str], templates: str | Sequence[str] | None = None) -> LoadedModel:
        """This `task=contrastive` model as an image classifier, from the names of labels alone.

        Args:
            labels: two or more names to choose from.
            templates: prompts with `{}` for a label's name, whose embeddings are averaged per label, or the name of a
                set, as in `task.templates`; None for the run's.

        Returns:
            A model that shares the weights; its `predict` takes rows without text.

        Raises:
            UserError: the run has another task, or labels are missing or repeated.
        """
        return self.with_saved(zero_shot.classifier(self.saved, labels, templates, self.device))

    def chat(
        self,
        messages: Sequence[Mapping[str, str]] | str,
        image: Any = None,
        stream: bool = False,
        root: str | Path = ".",
    ) -> Any:
        """The answer of a `task=generation` model to the last turn of a conversation about an image.

            turns = [{"role": "user", "content": "What is this?"}]
            turns += [{"role": "assistant", "content": model.chat(turns, image="0001.png")}]
            turns += [{"role": "user", "content": "What colour is it?"}]
            print(*model.chat(turns, image="0001.png", stream=True), sep="")

        Args:
            messages: the turns, or the text of a user's only one; images stand in the user's first, or each where one
                has `<image>`.
            image: as in a row for `predict`, or a list of several; None for none.
            stream: yield the answer piece by piece, as it is written.
            root: base folder of a relative image path.

        Returns:
            The answer, written as `decoding` says; with `stream`, an iterator over its pieces.

        Raises:
            UserError: the run has another task, the image cannot be read, or the conversation is none, or too long.
        """
        given = chat.image_row(self.saved, image, Path(root))
        batch = None if image is None else next(iter(self.batches(*given)))
        pieces = chat.answer(self.saved, messages, batch, self.device)
        return pieces if stream else "".join(pieces)

    def decoding(self, **options: Any) -> LoadedModel:
        """This `task=generation` model with other ways to write its answers: `model.decoding(num_beams=4)`.

        Args:
            options: keys of `task` that `mmft predict` takes; others are as in this model, which shares its weights.

        Raises:
            UserError: an option is wrong or does not go with another, or the run has another task.
        """
        return self.with_saved(with_decoding(self.saved, options))

    def asked(self, config: ZeroShotConfig, split: Split) -> LoadedModel:
        """This model as a command's `zero_shot` options want it; `split` has the command's rows."""
        return self.with_saved(zero_shot.asked(self.saved, config, split, self.device))

    def explain(
        self, rows: Any, label: str | None = None, points: int = ExplainConfig.points, root: str | Path = "."
    ) -> list[Explained]:
        """Attributes predictions to image parts and words; see `mmft.reports.explain.rows`.

        Args:
            rows: as for `predict`.
            label: what to explain: a label, a target, one of several tasks; None for each row's prediction.
            points: as in `mmft explain`.
            root: base folder of relative image paths.

        Returns:
            One explanation per row (one per task or target if there are several); none for a row without a prediction,
            which is logged as a warning.

        Raises:
            UserError: there is no such label.
        """
        check_label(self.saved.task, label)
        given = self._given(rows, root, with_labels=self.saved.task.facts.generates)
        return list(with_warnings(self.explained(*given, label, points), points))

    def embed(self, rows: Any, root: str | Path = ".") -> dict[str, npt.NDArray[np.float32]]:
        """Embeds rows in the same order; an embedding does not depend on the other rows of its batch.

        Args:
            rows: as for `predict`.
            root: base folder of relative image paths.

        Returns:
            (R, D) by name (`embedded`); nan if a row lacks the modality or is unreadable.
        """
        return stacked(list(self.embeddings(*self._given(rows, root))), self.embedded)

    def index(
        self, rows: Any = None, folder: str | Path | None = None, kind: Kind = "exact", root: str | Path = "."
    ) -> Index:
        """Embeds rows to search among them: `model.index(rows, "my_index").search("a red heart", top=5)`.

        Args:
            rows: as for `predict`; None to open the index that is in the folder.
            folder: to keep the index in, as `mmft index` does; None for a temporary one.
            kind: `exact` compares with every row, `approximate` follows a graph of neighbours.
            root: base folder of relative image paths.

        Raises:
            UserError: the folder has something else, or nothing, or another model's index in it.
        """
        return Index(self, folder or ".") if rows is None else Index.made(self, *self._given(rows, root), folder, kind)

    def search(self, query: Any, rows: Any, top: int = 10, find: Find | None = None) -> list[dict[str, Any]]:
        """Searches once, among rows or in the folder of an index: `model.index(rows).search(query, top, find)`."""
        return (self.index(None, rows) if isinstance(rows, str | Path) else self.index(rows)).search(query, top, find)

    def _given(self, rows: Any, root: str | Path, with_labels: bool = False) -> tuple[Split, DataConfig]:
        """Rows given in Python as a split, and the run's `data`."""
        data = self.saved.config.data
        if self.saved.task.facts.generates:
            data = replace(data, columns=with_conversations(data.columns, rows))
        return whole(table_from(rows, data, Path(root), with_labels)), data


def load(
    run: str | Path, runs: str | Path = "runs", accelerator: str = "auto", *, allow_code: bool = False
) -> LoadedModel:
    """Loads a finished run.

    Args:
        run: a run folder, its `model` folder, or `last`, the newest run under `runs`.
        runs: where to look for `last`.
        accelerator: `auto`, `cpu` or `gpu`.
        allow_code: allow importing the run's `plugins`, in this process from now on.

    Raises:
        UserError: `run` is no path, there is no such run or finished model, its plugins are not allowed, a frozen
            encoder is not found, or a GPU is requested but there is none.
    """
    if not isinstance(run, str | PathLike):
        raise UserError(f"run: {kind_of(run)} given; give a run folder. What `mmft.train` returns has `.model`")
    if allow_code:
        plugins.allow_code()
    with as_it_was():
        loaded = LoadedModel(load_model(model_folder(run, runs)), accelerator)
    if is_quantized(loaded.model):  # it is going to be used
        quiet_bitsandbytes()
    return loaded
