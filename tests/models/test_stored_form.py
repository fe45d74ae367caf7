"""Values of frozen layers in float16 and int8: close, the same whether kept or computed, and never infinite."""

from __future__ import annotations

import pytest
import torch

from mmft.errors import TrainingError
from mmft.models.stored_form import FORMS, packed, unpacked


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_come_back_rounded(form: str, dtype: torch.dtype) -> None:
    values = tuple(torch.randn(5, *shape, dtype=dtype) * 30 for shape in [(7, 16), (12,)])
    values[0][1, 2] = 0  # padding
    parts = packed(values, form)
    assert len(parts) == FORMS[form] * len(values)
    back = unpacked(parts, form, dtype)
    bound = {"computed": 0.0, "float16": 2**-11, "int8": 0.5 / 127}[form] + (2**-8 if dtype == torch.bfloat16 else 1e-6)
    for value, other in zip(values, back, strict=True):
        assert other.dtype == dtype
        assert other.shape == value.shape
        largest = value.abs().amax(-1, keepdim=True)
        assert bool(((other - value).abs() <= bound * largest).all())
    assert bool((back[0][1, 2] == 0).all())
    assert sum(part.nbytes for part in parts) <= sum(v.numel() for v in values) * {"int8": 1.4, "float16": 2}.get(
        form, 8
    )


def test_each_vector_has_a_scale_of_its_own() -> None:
    value = torch.tensor([[1e-3, 5e-4], [1e3, 5e2]])
    (back,) = unpacked(packed((value,), "int8"), "int8", torch.float32)
    assert torch.allclose(back, value, rtol=0.01)


def test_what_is_too_large_for_float16_is_an_error() -> None:
    with pytest.raises(TrainingError, match="cache.dtype=float16: a value of 1e\\+05 is too large"):
        packed((torch.tensor([[1.0, 1e5]]),), "float16")
    assert packed((torch.tensor([[1.0, float("inf")]]),), "float16")[0].isinf().any()  # training reports it
