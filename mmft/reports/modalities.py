"""What each modality contributes to a finished model: `mmft test modalities=true`.

Repeats the metrics of the ordinary pass on the same rows with changed inputs:

    image_only, text_only             the other modality replaced by its learned stand-in
    image_shuffled, text_shuffled     each row gets another row's, drawn by the run's seed over the whole split: the
                                      perceptual score of Gat et al. 2021, arXiv 2110.14375

With an untrained stand-in the figure mixes "missing" with "never seen missing", and a note says so. A
shuffled modality is always one that the model knows. Rows that lack a modality stay in every pass without it, so that
all figures are on the same rows; they are not shuffled. Pairwise tasks have no figure for one modality alone. There
shuffled means chance, so no row gets one that matches its own by the same image, text or group.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader

from mmft.batch import BadRow, Batch
from mmft.config.schema.data import ColumnsConfig
from mmft.data.dataset import RowDataset
from mmft.data.exchange import Exchanged, exchanged_images, exchanged_texts
from mmft.data.gathered import NOBODY, Positions
from mmft.data.loading import make_loader
from mmft.errors import UserError
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.reports.aligned import aligned
from mmft.tasks.base import Task
from mmft.tasks.identities import IDENTITY, standing_together

log = logging.getLogger(__name__)
Figures = dict[str, float]
Measure = Callable[[DataLoader[Batch]], Figures]


_TITLES = {
    "both": "both",
    "image_only": "image only",
    "text_only": "text only",
    "image_shuffled": "images shuffled between rows",
    "text_shuffled": "texts shuffled between rows",
}


class Change(NamedTuple):
    """Which row's image and which row's text each position of a split gets."""

    images: Positions
    texts: Positions


def check_columns(columns: ColumnsConfig) -> None:
    """Raises UserError if the run has only one modality."""
    for name in ("image", "text"):
        if getattr(columns, name) is None and (name == "image" or columns.messages is None):
            raise UserError(
                f"modalities=true: the run has no data.columns.{name}, so there is nothing to compare. Leave it out"
            )


def changes(rows: RowDataset, bad: Mapping[int, BadRow], seed: int, alone: bool) -> dict[str, Change]:
    """The passes by name.

    Args:
        rows: the data set of the ordinary pass.
        bad: its bad rows, by row number.
        seed: the run's.
        alone: whether one modality without the other makes sense.
    """
    split = rows.split
    good = np.array([at for at, row in enumerate(split.rows.tolist()) if row not in bad], dtype=np.int64)
    own, nobody = np.arange(len(split)), np.full(len(split), NOBODY)
    together = None
    if not alone and rows.targets is not None:  # a pairwise task
        together = own.copy()
        together[good] = standing_together(rows.targets[good, IDENTITY].numpy())
    made = {
        "image_only": Change(own, nobody),
        "text_only": Change(nobody, own),
        "image_shuffled": Change(exchanged_images(split, good, seed, together), own),
        "text_shuffled": Change(own, exchanged_texts(split, good, seed, together)),
    }
    return made if alone else {name: change for name, change in made.items() if not name.endswith("_only")}


def measured(
    loader: DataLoader[Batch], bad: Mapping[int, BadRow], seed: int, task: Task, measure: Measure
) -> dict[str, Figures]:
    """All scalar metrics of each pass, by its name.

    Args:
        loader: the ordinary pass's, from `make_batches`.
        bad: its bad rows, by row number.
        seed: the run's.
        task: the model's.
        measure: evaluates the model on batches.
    """
    rows: Any = loader.dataset
    made = changes(rows, bad, seed, alone=not task.facts.needs_both)
    return {name: measure(changed_loader(loader, change, bad)) for name, change in made.items()}


def changed_loader(loader: DataLoader[Batch], change: Change, bad: Mapping[int, BadRow]) -> DataLoader[Batch]:
    """The same batches with other rows' images and texts, from the ordinary pass's loader and its bad rows."""
    rows: Any = loader.dataset
    batches: Any = loader.batch_sampler
    collate: Any = loader.collate_fn
    changed: Any = Exchanged(rows, change.images, change.texts, bad)
    return make_loader(changed, batches, collate, num_workers=loader.num_workers, pin=loader.pin_memory)


def table(task: Task, both: Figures, found: Mapping[str, Figures]) -> str:
    """A table of the task's headline metrics in each pass, and their difference from the ordinary pass."""
    lines = [["model input"], [_TITLES["both"]], *([_TITLES[key]] for key in found)]
    for name in task.headlines:
        base, others = both[name], [figures[name] for figures in found.values()]
        changed = [[f"{value:.4f}", f"{value - base:+.4f}"] for value in others]
        cells = [[name, "difference"], [f"{base:.4f}", ""], *changed]
        lines = [line + more for line, more in zip(lines, cells, strict=True)]
    return aligned(lines, right=range(1, len(lines[0])))


def notes(model: VisionLanguageModel, rows: RowDataset, bad: Mapping[int, BadRow], task: Task) -> list[str]:
    """Caveats of the figures: stand-ins that were never trained, rows that lack a modality."""
    split, said = rows.split, []
    if task.facts.needs_both:
        said.append("image_only and text_only are omitted: matching an image with a text takes both")
    good = [row for row in split.rows.tolist() if row not in bad]
    for alone, word in (("image", "text"), ("text", "image")):
        stand_in = getattr(model, f"missing_{word}", None)  # a generative model has none for a text
        if not task.facts.needs_both and stand_in is not None and stand_in.is_untrained:
            said.append(
                f"{alone}_only: the stand-in of the {word} is untrained, since no training row lacked one. It shows "
                f"what this model does without, not what is possible: a run with model.modality_dropout=0.3 learns that"
            )
    for word, get in (("image", split.table.image), ("text", split.table.text)):
        lacking = sum(get(row) is None for row in good)
        if lacking:
            said.append(f"{lacking} of {len(good)} rows have no {word}; every line includes them, without it")
    return said
