"""What a batch's rows have come to, row by row in the order of the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mmft.batch import Batch, Fused, Outputs
from mmft.data.splitting.splits import Split
from mmft.run.saved_model import SavedModel
from mmft.tasks.base import Task


def widths_of(saved: SavedModel) -> dict[str, int]:
    """Names and widths of a model's embeddings, as `LoadedModel.embedded` tells."""
    model = saved.model
    if saved.task.facts.pairwise:
        return dict.fromkeys(("image", "text"), model.fusion.width // 2)
    encoders = {"image": model.image_encoder.widths.pooled, "text": model.text_encoder.widths.pooled}
    return (encoders if model.fusion.reads == "pooled" else {}) | {"fused": model.fusion.width}


def answers_of(batch: Batch, outputs: Outputs, task: Task) -> dict[int, dict[str, Any]]:
    """Predictions by row number; an error for a row without what the task needs."""
    found: dict[int, dict[str, Any]] = dict(zip(batch.row.tolist(), task.answers(outputs), strict=True))
    if task.facts.needs_both:
        for name, there in (("image", batch.image_present), ("text", batch.text_present)):
            found |= {row: {"error": f"no {name}"} for row in batch.row[~there].tolist()}
    return found


def embeddings_of(batch: Batch, fused: Fused, saved: SavedModel) -> dict[int, dict[str, Any]]:
    """Embeddings by row number; None for a missing modality.

    Args:
        batch: of B rows.
        fused: of the same.
        saved: the model.
    """
    parts = {"image": fused.image, "text": fused.text, "fused": fused.features}
    if saved.task.facts.pairwise:
        parts["image"], parts["text"] = fused.features.chunk(2, dim=-1)
    there = {"image": batch.image_present, "text": batch.text_present}
    found: dict[int, dict[str, Any]] = {row: {} for row in batch.row.tolist()}
    for name in widths_of(saved):
        values, present = parts[name].float().cpu().numpy(), there.get(name, torch.ones_like(batch.image_present))
        for row, value, known in zip(batch.row.tolist(), values, present.tolist(), strict=True):
            found[row][name] = value if known else None
    return found


def in_order(
    batch: Batch, found: dict[int, dict[str, Any]], columns: list[str], split: Split
) -> Iterator[dict[str, Any]]:
    """A batch's rows in table order: results, or errors."""
    wrong = {bad.row: bad.why for bad in batch.bad}
    for row in sorted(found.keys() | wrong.keys()):
        answer = {"row": row, "id": split.table.id(row), "error": wrong.get(row)} | found.get(row, {})
        yield dict.fromkeys(columns) | answer


def stacked(rows: Sequence[dict[str, Any]], widths: Mapping[str, int]) -> dict[str, npt.NDArray[np.float32]]:
    """(R, D) for each name, nan where a row has no embedding; `widths` gives D."""
    made = {}
    for name, width in widths.items():
        made[name] = np.full((len(rows), width), np.nan, dtype=np.float32)
        for at, row in enumerate(rows):
            if row[name] is not None:
                made[name][at] = row[name]
    return made
