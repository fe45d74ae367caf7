"""Running a finished model without the Trainer: on its device, in the run's precision, without gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from mmft.batch import Batch, Outputs
from mmft.models.vision_language_model import VisionLanguageModel


@contextmanager
def ready(model: VisionLanguageModel, device: torch.device, precision: str) -> Iterator[None]:
    """`model` on `device`, in eval mode and in `precision`; no graph is kept."""
    model.to(device=device, dtype=torch.float64 if precision == "64-true" else torch.float32).eval()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")
    with torch.inference_mode(), autocast:
        yield


def outputs_of(
    model: VisionLanguageModel, batches: Iterable[Batch], device: torch.device, precision: str
) -> Iterator[tuple[Batch, Outputs | None]]:
    """Every batch with the model's outputs; None where none of its rows could be read."""
    with ready(model, device, precision):
        for batch in batches:
            yield batch, model(batch.to(device)) if len(batch) else None
