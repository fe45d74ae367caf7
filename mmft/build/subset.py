"""`data.subset`: chooses the training rows of a run by their features, before anything is made of them."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmft.batch import BadRow
from mmft.build.frozen import EncoderFeatures
from mmft.build.model import build_task, fit_task
from mmft.config.schema.data import SubsetConfig
from mmft.config.schema.root import TrainConfig
from mmft.data.bad_rows import BadRows
from mmft.data.dataset import missing_images
from mmft.data.hashing import unit_hashes
from mmft.data.loading import make_dataset
from mmft.data.splitting.splits import Split
from mmft.data.subsets import Draws, Rows, choose, covering_radius, joined
from mmft.data.targets import Encode, encode_targets
from mmft.errors import TrainingError, UserError
from mmft.files import records_as_csv, write_text
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.run_folder import RunFolder
from mmft.tasks.base import Task
from mmft.training.frozen_cache import Pooled
from mmft.training.parallel.rendezvous import of_first_rank

log = logging.getLogger(__name__)
MakeModel = Callable[[Task], VisionLanguageModel]


def choose_subset(
    config: TrainConfig, splits: dict[str, Split], folder: RunFolder, make_model: MakeModel
) -> dict[str, Split]:
    """The splits, of the training rows only those that `data.subset` chooses; `subset.csv` lists them.

    The first rank chooses for all, since another device may round features differently. A run that resumes reads its
    file.

    Args:
        config: with hardware chosen.
        splits: by name.
        folder: of the run.
        make_model: makes the model that training starts from, without tuning methods, for a fitted task.

    Raises:
        UserError: there are too few rows, too many are bad, or the table no longer has the rows of `subset.csv`.
        TrainingError: features are not finite.
    """
    if not _chooses(config.data.subset):
        return splits
    train = splits["train"]

    def rows() -> list[int]:
        if folder.subset.exists():
            return _read(folder, train)
        usable = _Usable(config, train)
        found, facts = usable.chosen(make_model)
        chosen: list[int] = found.tolist()
        folder.update_summary(subset=facts)
        write_text(folder.subset, records_as_csv([{"row": row, "id": train.table.id(row)} for row in chosen]))
        return chosen

    return splits | {"train": Split(train.table, np.array(of_first_rank(rows)))}


def drawn_subset(config: TrainConfig, splits: dict[str, Split]) -> dict[str, Split]:
    """The splits, of the training rows as many of each class as `data.subset` chooses, drawn: no encoder is needed.

    Raises:
        UserError: there are too few rows, or too many are bad.
    """
    if not _chooses(config.data.subset):
        return splits
    usable = _Usable(config, splits["train"])
    return splits | {"train": Split(splits["train"].table, usable.rows(usable.drawn()))}


def _chooses(wanted: SubsetConfig) -> bool:
    """Whether fewer than all rows are wanted."""
    return wanted.rows is not None or wanted.fraction not in (None, 1)


def _read(folder: RunFolder, train: Split) -> list[int]:
    """The rows that the run chose before it was interrupted."""
    with folder.subset.open(encoding="utf-8", newline="") as stream:
        listed = [(int(line["row"]), line["id"]) for line in csv.DictReader(stream)]
    known = set(train.rows.tolist())
    for row, name in listed:
        if row not in known or train.table.id(row) != name:
            raise UserError(
                f"{folder.subset}: row {row} (id {name}) is not a training row of {train.table.where}, which has "
                "changed since the run was started. Start a new run without resume"
            )
    log.info("subset: the %d training rows of %s", len(listed), folder.subset)
    return [row for row, _ in listed]


class _Usable:
    """The training rows that can be chosen: neither bad nor of weight 0.

    Args:
        config: of the run.
        train: the training rows.
    """

    def __init__(self, config: TrainConfig, train: Split) -> None:
        self.config, self.train = config, train
        self.task = build_task(config.task)
        fit_task(self.task, train)
        targets, bad = encode_targets(train, Encode.of(self.task))
        self._bad = BadRows(len(train), config.data.max_bad_fraction, where="training rows")
        self._take_out([*train.table.bad_among(train.rows), *bad.values()])
        self._take_out(missing_images(train, {row.row for row in self._bad.rows}).values())
        self.places = self._places()
        self._classes = np.zeros(len(train), dtype=np.int64)
        wanted = config.data.subset.by_label
        self.by_label = config.task.has_classes if wanted is None else wanted
        if self.by_label and targets is not None and (found := self.task.classes(targets)) is not None:
            self._classes = found.numpy()

    def chosen(self, make_model: MakeModel) -> tuple[Rows, dict[str, Any]]:
        """The chosen rows, ascending, and what is known about the choice, for the run's summary; logs it."""
        wanted = self.config.data.subset
        method = wanted.method or "random"
        facts: dict[str, Any] = {"method": method, "by_label": self.by_label}
        if method == "random":
            found, said = self.drawn(), "drawn at random"
        else:
            modalities, features = self._features(make_model)
            classes = self._classes[self.places]
            found = choose(method, features, classes, self._count(), self._draws())
            radius, usual = (covering_radius(features, classes, rows) for rows in (found, self.drawn()))
            facts |= {"features": modalities, "farthest": radius, "farthest_if_drawn": usual}
            of_class = " of its class" * self.by_label
            said = (
                f"chosen by {method} over the features of {' and '.join(modalities)}; the farthest row is {radius:.3f} "
                f"from the nearest chosen one{of_class} ({usual:.3f} if they were drawn at random)"
            )
        facts |= {"rows": len(found), "of": len(self.places)}
        each = ", each class its share" if self.by_label else ""
        log.info("subset: %d of %d training rows%s, %s", len(found), len(self.places), each, said)
        self._tell_bad()
        return self.rows(found), facts

    def drawn(self) -> Rows:
        """The places in `places` of rows drawn at random."""
        nothing = torch.zeros(len(self.places), 0)
        return choose("random", nothing, self._classes[self.places], self._count(), self._draws())

    def rows(self, chosen: Rows) -> Rows:
        """The numbers of rows by their places in `places`."""
        return self.train.rows[self.places[chosen]]

    def _take_out(self, bad: Iterable[BadRow]) -> None:
        self._bad.add(bad)
        self._bad.check()

    def _places(self) -> Rows:
        """The positions of usable rows in the split."""
        bad, weight = {row.row for row in self._bad.rows}, self.train.table.weight
        found = [at for at, row in enumerate(self.train.rows.tolist()) if row not in bad and weight(row) > 0]
        if not found:
            raise UserError(
                f"data.subset: none of the {len(self.train)} training rows of {self.train.table.where} is usable"
            )
        return np.array(found)

    def _draws(self) -> Draws:
        table, rows = self.train.table, self.rows(np.arange(len(self.places)))
        return unit_hashes([table.id(row) for row in rows.tolist()], self.config.seed, purpose="subset")

    def _count(self) -> int:
        """How many rows are wanted."""
        wanted, there = self.config.data.subset, len(self.places)
        classes = len(np.unique(self._classes[self.places]))
        if wanted.rows is None:
            return max(round(float(wanted.fraction or 1) * there), classes)
        if wanted.rows > there:
            raise UserError(
                f"data.subset.rows={wanted.rows}: there are {there} usable training rows. Type {there} or less"
            )
        if wanted.rows < classes:
            raise UserError(
                f"data.subset.rows={wanted.rows}: there are {classes} classes, and each gets a row. Type {classes} or "
                "more, or data.subset.by_label=false"
            )
        return wanted.rows

    def _features(self, make_model: MakeModel) -> tuple[list[str], Tensor]:
        """The modalities, and the features of usable rows (R, D); rows whose image cannot be read are bad from now."""
        self._count()  # is checked before encoders are loaded
        config, model = self.config, make_model(self.task)
        dataset = make_dataset(
            self.train,
            config.data,
            tokenizer=model.text_encoder.tokenizer,
            max_length=model.text_encoder.max_length,
            image_size=model.image_encoder.image_size,
            encode=Encode.of(self.task),
        )
        dataset.bad |= {row.row: row for row in self._bad.rows}
        found = EncoderFeatures(config, model).of(dataset)
        if "image" in found:
            unread = sorted(set(found["image"].unread(dataset)) & set(self.places.tolist()))
            self._take_out(bad for at in unread if (bad := dataset[at].bad) is not None)
            self.places = self._places()
        usable = [Pooled(values[self.places], there[self.places]) for values, there in found.values()]
        features = joined(usable)
        if not features.isfinite().all():
            raise TrainingError(
                f"data.subset: in {config.trainer.precision}, an encoder makes of some rows what is not a number. "
                "Type trainer.precision=32-true, or data.subset=random"
            )
        return list(found), features

    def _tell_bad(self) -> None:
        if self._bad.count:
            first = self._bad.rows[0]
            log.warning(
                "subset: %d bad training rows could not be chosen; row %d, %s", self._bad.count, first.row, first.why
            )
