"""The losses over pairs: in chunks as in one piece, and in the memory that they promise."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mmft.tasks import pair_losses
from mmft.tasks.pair_losses import Rows, info_nce_sum, sigmoid_sum

LOSSES = [info_nce_sum, sigmoid_sum]


def vectors(rows: int, width: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = torch.randn(2, rows, width, generator=generator, dtype=dtype)
    image, text = functional.normalize(made, dim=-1)
    return (10 * image).requires_grad_(), text.requires_grad_()


def rows_of(count: int, groups: int | None = None) -> Rows:
    numbers = torch.arange(count)
    group = torch.full((count,), -1) if groups is None else numbers % groups
    return Rows(torch.stack([numbers, numbers, group], dim=1), torch.linspace(0.5, 1.5, count))


def gradients(loss: Tensor, *of: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, of))


def test_info_nce_with_a_positive_each_is_clips() -> None:
    image, text = vectors(12, 8)
    rows = rows_of(12)._replace(weight=torch.ones(12))
    logits, own = image @ text.T, torch.arange(12)
    expected = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
    assert info_nce_sum(image, text, rows, slice(None)).item() / 12 == pytest.approx(expected.item(), abs=1e-12)


def test_sigmoid_with_a_positive_each_is_siglips() -> None:
    image, text = vectors(12, 8)
    rows = rows_of(12)._replace(weight=torch.ones(12))
    signs = 2 * torch.eye(12, dtype=torch.float64) - 1
    expected = -functional.logsigmoid(signs * (image @ text.T)).sum() / 12
    assert sigmoid_sum(image, text, rows, slice(None)).item() / 12 == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("loss_sum", LOSSES)
@pytest.mark.parametrize("groups", [None, 5])
def test_chunks_and_ranks_change_nothing(loss_sum: Any, groups: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    image, text = vectors(50, 8)
    rows = rows_of(50, groups)
    rows.weight[7] = 0
    whole = loss_sum(image, text, rows, slice(None))
    exact = gradients(whole, image, text)
    monkeypatch.setattr(pair_losses, "CHUNK", 50 * 7)
    of_ranks = [loss_sum(image, text, rows, own) for own in (slice(0, 20), slice(20, 20), slice(20, 50))]
    assert float(sum(of_ranks)) == pytest.approx(float(whole), abs=1e-10)  # type: ignore[arg-type]
    for found, expected in zip(gradients(sum(of_ranks), image, text), exact, strict=True):  # type: ignore[arg-type]
        assert (found - expected).abs().max() <= 1e-10


@pytest.mark.parametrize("loss_sum", LOSSES)
def test_a_row_without_weight_is_as_if_it_were_not_there(loss_sum: Any) -> None:
    image, text = vectors(9, 4)
    rows = rows_of(9, groups=4)
    rows.weight[[2, 6]] = 0
    kept = torch.tensor([0, 1, 3, 4, 5, 7, 8])
    without = loss_sum(image[kept], text[kept], Rows(rows.identity[kept], rows.weight[kept]), slice(None))
    loss = loss_sum(image, text, rows, slice(None))
    assert float(loss) == pytest.approx(float(without), abs=1e-12)
    for gradient in gradients(loss, image, text):
        assert not gradient[[2, 6]].any()


@pytest.mark.parametrize("loss_sum", LOSSES)
def test_no_row_has_a_weight(loss_sum: Any) -> None:
    image, text = vectors(5, 4)
    loss = loss_sum(image, text, rows_of(5)._replace(weight=torch.zeros(5)), slice(None))
    assert float(loss) == 0.0
    assert not any(bool(gradient.any()) for gradient in gradients(loss, image, text))


@pytest.mark.parametrize("loss_sum", LOSSES)
def test_in_float32_chunks_are_near_the_plain_loss(loss_sum: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    image, text = vectors(2048, 64, torch.float32)
    rows = rows_of(2048, groups=500)
    found = loss_sum(image, text, rows, slice(None)) / 2048
    given = gradients(found, image, text)
    monkeypatch.setattr(pair_losses, "CHUNK", 2048**2)
    plain = loss_sum(image, text, rows, slice(None)) / 2048
    assert float(found) == pytest.approx(float(plain), rel=1e-5)
    for one, other in zip(given, gradients(plain, image, text), strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


MEASURE = """
import sys, torch
from mmft.training.memory import forget_peak, held_bytes, peak_bytes
from mmft.tasks import pair_losses
rows, width = int(sys.argv[2]), int(sys.argv[3])
image, text = (torch.nn.functional.normalize(torch.randn(rows, width), dim=1).requires_grad_() for _ in range(2))
identity = torch.arange(rows)[:, None].expand(-1, 3).contiguous()
known = pair_losses.Rows(identity, torch.ones(rows))
cpu = torch.device("cpu")
def once(image, text, known):
    (getattr(pair_losses, sys.argv[1])(image, text, known, slice(None)) / rows).backward()
once(image[:64], text[:64], pair_losses.Rows(identity[:64], known.weight[:64]))
image.grad = text.grad = None
before = held_bytes(cpu)
forget_peak(cpu)
once(image, text, known)
print(peak_bytes(cpu) - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["info_nce_sum", "sigmoid_sum"])
def test_memory_at_16384_rows(loss: str) -> None:
    """At most four times the embeddings and 256 MB; all logits at once would be 1 GiB, with their graph several."""
    command = [sys.executable, "-c", MEASURE, loss, "16384", "256"]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown <= 4 * 2 * 16384 * 256 * 4 + 256e6
