"""Running a finished model without the Trainer: on its device, in a chosen precision, without gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from mmft.batch import Batch, Outputs
from mmft.errors import UserError
from mmft.models.vision_language_model import VisionLanguageModel


def device_of(accelerator: str) -> torch.device:
    """`auto`, `cpu` or `gpu` as a device.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if accelerator == "gpu" and not has_gpu:
        raise UserError("trainer.accelerator=gpu: torch sees no GPU here. Type trainer.accelerator=auto or cpu.")
    return torch.device("cuda" if has_gpu and accelerator != "cpu" else "cpu")


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes bfloat16 in hardware; in software it is slow, and no nearer to a GPU's figures."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


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
