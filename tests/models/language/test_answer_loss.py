"""Log-probabilities of answer tokens in chunks are those of full logits, and so are all gradients."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mmft.models.language.answer_loss import answer_log_probs

TOKENS, VOCABULARY, WIDTH = 11, 29, 6
FORMS: list[dict[str, Any]] = [
    {},
    {"smoothing": 0.1},
    {"smoothing": 1.0},
    {"scale": 0.3},
    {"soft_cap": 2.0},
    {"smoothing": 0.2, "scale": 3.0, "soft_cap": 1.5},
]


def made(dtype: torch.dtype = torch.float64, tokens: int = TOKENS) -> list[Tensor]:
    """Hidden states, weight, bias, each learning, and targets."""
    generator = torch.Generator().manual_seed(3)
    shapes = ((tokens, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,))
    parts = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    targets = torch.randint(VOCABULARY, (tokens,), generator=generator)
    return [*(part.requires_grad_() for part in parts), targets]


def plain(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    smoothing: float = 0.0,
    scale: float = 1.0,
    soft_cap: float | None = None,
) -> Tensor:
    """The same from full logits."""
    logits = functional.linear(hidden, weight, bias) * scale
    if soft_cap is not None:
        logits = soft_cap * torch.tanh(logits / soft_cap)
    if logits.dtype != torch.float64:
        logits = logits.float()
    return -functional.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)


def found(value: Tensor, parts: list[Tensor]) -> list[Tensor]:
    """A value (T,) and the gradients of a sum of it with weights of both signs."""
    weights = torch.linspace(-1, 2, len(value), dtype=value.dtype)
    return [value.detach(), *torch.autograd.grad((value * weights).sum(), parts)]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("chunk", [None, 1, 4, TOKENS, 100])
def test_values_and_gradients_are_those_of_full_logits(chunk: int | None, form: dict[str, Any]) -> None:
    *parts, targets = made()
    for one, other in zip(
        found(answer_log_probs(*parts, targets, chunk, **form), parts),
        found(plain(*parts, targets, **form), parts),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_gradcheck(form: dict[str, Any]) -> None:
    *parts, targets = made(tokens=5)
    assert torch.autograd.gradcheck(lambda *given: answer_log_probs(*given, targets, 2, **form), parts)


@pytest.mark.parametrize("learns", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1)])
def test_only_what_learns_gets_a_gradient(learns: tuple[int, ...]) -> None:
    *parts, targets = made()
    learning = [part for part, does in zip(parts, learns, strict=True) if part.requires_grad_(bool(does)).requires_grad]
    for one, other in zip(
        found(answer_log_probs(*parts, targets, 4), learning), found(plain(*parts, targets), learning), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_without_a_bias() -> None:
    hidden, weight, _, targets = made()
    for one, other in zip(
        found(answer_log_probs(hidden, weight, None, targets, 4), [hidden, weight]),
        found(plain(hidden, weight, None, targets), [hidden, weight]),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_no_gradient_is_asked_for() -> None:
    *parts, targets = made()
    with torch.no_grad():
        value = answer_log_probs(*parts, targets, 4)
    assert not value.requires_grad
    torch.testing.assert_close(value, plain(*parts, targets).detach(), rtol=0, atol=1e-10)


def test_no_token() -> None:
    *parts, targets = made(tokens=0)
    value = answer_log_probs(*parts, targets)
    assert value.shape == (0,)
    assert all((grad == 0).all() for grad in torch.autograd.grad(value.sum(), parts))


def test_a_tied_weight_gets_both_gradients() -> None:
    """Token embeddings that are the head's weight, too."""
    _, weight, bias, targets = made()
    for one, other in zip(
        found(answer_log_probs(functional.embedding(targets.flip(0), weight), weight, bias, targets, 4), [weight]),
        found(plain(functional.embedding(targets.flip(0), weight), weight, bias, targets), [weight]),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_large_logits_neither_overflow_nor_vanish() -> None:
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    weight, targets = torch.tensor([[1.0], [-1.0], [0.0]]), torch.tensor([0, 0])
    value = answer_log_probs(hidden, weight, None, targets)
    assert value.tolist() == [0.0, -2e4]
    assert torch.autograd.grad(value.sum(), hidden)[0].tolist() == [[0.0], [2.0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_16_bits(dtype: torch.dtype, autocast: bool) -> None:
    """As near to float64 as 16-bit logits with a float32 softmax are; gradients keep their tensors' dtype."""
    *exact, targets = made()
    given = [part.detach().to(torch.float32 if autocast else dtype).requires_grad_() for part in exact]
    with torch.autocast("cpu", dtype, enabled=autocast):
        ours, theirs = (function(*given, targets) for function in (answer_log_probs, plain))
    assert ours.dtype == torch.float32
    of_ours, of_theirs = found(ours, given), found(theirs, given)
    for one, other, wanted in zip(of_ours, of_theirs, found(plain(*exact, targets), exact), strict=True):
        assert one.dtype == other.dtype
        assert (one - wanted).norm() <= 1.5 * (other - wanted).norm() + 1e-3 * wanted.norm()


def test_gradients_of_many_16_bit_chunks_are_summed_in_float32() -> None:
    """In bfloat16 a sum of 256 equal addends stands still."""
    hidden, targets = torch.ones(2048, 1, dtype=torch.bfloat16), torch.zeros(2048, dtype=torch.int64)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    answer_log_probs(hidden, weight, None, targets, chunk=1).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1024.0], [-1024.0]]


PEAK = """
import resource, sys
import torch
from mmft.models.language.answer_loss import answer_log_probs
tokens = int(sys.argv[1])
hidden, weight = torch.randn(tokens, 8, requires_grad=True), torch.randn(20_000, 8, requires_grad=True)
targets = torch.zeros(tokens, dtype=torch.int64)
answer_log_probs(hidden[:2], weight, None, targets[:2], 64).sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
answer_log_probs(hidden, weight, None, targets, 64).sum().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_tokens() -> None:
    """8,192 tokens x 20,000 words take 625 MiB; 64 of them 5."""
    command = [sys.executable, "-c", PEAK, "8192"]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)  # KiB
    assert grown < 40 * 1024
