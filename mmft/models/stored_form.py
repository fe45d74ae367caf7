"""In which form the values of a frozen part are kept: as computed, in float16, or in int8 with scales.

A part gives its values in this form whether they are kept or not, so that what is read is what would be computed.

Legend: D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmft.errors import TrainingError

FORMS = {"computed": 1, "float16": 1, "int8": 2}
"""How many tensors a value becomes in each form."""
_LARGEST = 127


def packed(values: tuple[Tensor, ...], form: str) -> tuple[Tensor, ...]:
    """Values (..., D) each in a form.

    Args:
        values: in any floating dtype.
        form: one of `FORMS`; `int8` scales every vector by its largest magnitude, and gives (..., D) int8 and (..., 1)
            float32 for each value.

    Raises:
        TrainingError: a finite value is too large for float16.
    """
    if form == "computed":
        return values
    if form == "float16":
        return tuple(map(_in_float16, values))
    return tuple(part for value in values for part in _in_int8(value))


def unpacked(parts: tuple[Tensor, ...], form: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The inverse of `packed` up to rounding, in `dtype`; values in the form `computed` keep theirs."""
    if form == "computed":
        return parts
    if form == "float16":
        return tuple(part.to(dtype) for part in parts)
    return tuple(whole.to(dtype) * scale.to(dtype) for whole, scale in zip(parts[::2], parts[1::2], strict=True))


def _in_float16(value: Tensor) -> Tensor:
    found = value.to(torch.float16)
    if not found.isfinite().all() and value.isfinite().all():
        raise TrainingError(
            f"cache.dtype=float16: a value of {float(value.abs().max()):.3g} is too large. Type cache.dtype=int8, or "
            "leave it out"
        )
    return found


def _in_int8(value: Tensor) -> tuple[Tensor, Tensor]:
    scale = value.float().abs().amax(-1, keepdim=True) / _LARGEST
    whole = (value.float() / scale.clamp_min(torch.finfo(torch.float32).tiny)).round()
    return whole.to(torch.int8), scale
