"""Running a finished model without the Trainer: on its device, in a chosen precision, without gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from mmft.batch import Batch, Outputs
from mmft.models.vision_language_model import VisionLanguageModel


def full_precision(precision: str) -> str:
    """The precision in which a row's outputs do not depend on the rows beside it, for a run of `precision`.

    A row's neighbours change the padded length and the batch size, and with them the order in which sums are
    rounded: about 1e-7 in float32, but 4e-3 in bfloat16, which can turn a label over.
    """
    return "64-true" if precision == "64-true" else "32-true"


def outputs_of(
    model: VisionLanguageModel, batches: Iterable[Batch], device: torch.device, precision: str
) -> Iterator[tuple[Batch, Outputs | None]]:
    """Every batch with the model's outputs; None where none of its rows could be read.

    Args:
        model: is moved to `device` and put in eval mode.
        batches: of a split.
        device: where it runs.
        precision: `32-true`, `64-true` or `bf16-mixed`.
    """
    model.to(device=device, dtype=torch.float64 if precision == "64-true" else torch.float32).eval()
    for batch in batches:
        yield batch, _forward(model, batch.to(device), precision) if len(batch) else None


def _forward(model: VisionLanguageModel, batch: Batch, precision: str) -> Outputs:
    # The modes end with the batch: around a `yield` they would hold for the caller's code as well.
    autocast = torch.autocast(batch.row.device.type, torch.bfloat16, enabled=precision == "bf16-mixed")
    with torch.inference_mode(), autocast:
        outputs: Outputs = model(batch)
        return outputs
