"""Log-probabilities of answer tokens under a language model's head, without the logits of all tokens at once.

Full logits of 2,048 tokens over a vocabulary of 150,000 take 1.2 GB in float32, and a loss needs three such tensors.
Here the head is applied to some rows at a time, and gradients are computed from logits that are dropped at once.

Legend: T answer tokens, t tokens of a chunk, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mmft.models.precision import at_least_float32

_LOGITS = 2**23  # computed at once: 32 MiB in float32


class _Form(NamedTuple):
    """How hidden states become log-probabilities: the arguments of `answer_log_probs` that are no tensors."""

    chunk: int
    smoothing: float
    scale: float
    soft_cap: float | None


def answer_log_probs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    chunk: int | None = None,
    *,
    smoothing: float = 0.0,
    scale: float = 1.0,
    soft_cap: float | None = None,
) -> Tensor:
    """(T,) log-probabilities of the targets, float32, or float64 for float64; differentiable once.

    With `smoothing`, each is the mean of log-probabilities under smoothed targets, (1 - smoothing) log p(target) +
    smoothing mean_v log p(v): minus the `cross_entropy` of torch with `label_smoothing`.

    Neither pass holds more than `chunk` x V logits. The gradient to `hidden` is computed in the forward pass, so that
    with a frozen head every chunk of logits is computed once; otherwise the backward pass computes it again. Under
    autocast the head is applied in 16 bits; softmax and sums are in float32.

    Args:
        hidden: (T, D) last hidden states at the positions that predict the targets.
        weight: (V, D) of the head.
        bias: (V,) of the head.
        targets: (T,) int64.
        chunk: rows at once; None for what fits into 32 MiB.
        smoothing: of the targets, from 0 to 1.
        scale: the logits are multiplied by it (Cohere's `logit_scale`, one over Granite's `logits_scaling`).
        soft_cap: then x becomes soft_cap tanh(x / soft_cap) (Gemma 2's `final_logit_softcapping`).
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    else:
        weight = weight.to(hidden.dtype)  # a frozen head may be in 16 bits
    form = _Form(chunk or max(1, _LOGITS // len(weight)), smoothing, scale, soft_cap)
    log_probs: Tensor = _AnswerLogProbs.apply(hidden, weight, bias, targets, form)
    return log_probs


class _AnswerLogProbs(torch.autograd.Function):
    """`answer_log_probs` with tensors of one dtype."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, form: _Form) -> Tensor:
        """(T,) log-probabilities."""
        ctx.form, (hidden_learns, *head_learns) = form, ctx.needs_input_grad[:3]
        by_hidden = torch.empty_like(hidden) if hidden_learns else None
        log_probs = at_least_float32(hidden.new_empty(0)).new_empty(len(hidden))
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _chunks(len(hidden), form.chunk):
                log_probs[rows], by_logits = _chunk(hidden[rows], weight, bias, targets[rows], form)
                if by_hidden is not None:
                    by_hidden[rows] = by_logits().to(weight.dtype) @ weight
                del by_logits  # it holds the logits; those of the next chunk are made first otherwise
        ctx.save_for_backward(by_hidden, *((hidden, weight, bias, targets) if any(head_learns) else ()))
        return log_probs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of hidden states, weight and bias."""
        by_hidden, *saved = ctx.saved_tensors
        of_hidden = None if by_hidden is None else (grad[:, None] * by_hidden).to(by_hidden.dtype)
        if not saved:
            return of_hidden, None, None, None, None
        hidden, weight, bias, targets = saved
        _, weight_learns, bias_learns, *_ = ctx.needs_input_grad
        of_weight = torch.zeros_like(weight, dtype=grad.dtype) if weight_learns else None
        of_bias = torch.zeros_like(bias, dtype=grad.dtype) if bias_learns else None
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _chunks(len(hidden), ctx.form.chunk):
                of_logits = _chunk(hidden[rows], weight, bias, targets[rows], ctx.form)[1]().mul_(grad[rows, None])
                if of_bias is not None:
                    of_bias += of_logits.sum(0)
                if of_weight is not None:
                    _add_product(of_weight, of_logits.to(hidden.dtype).T, hidden[rows])
                del of_logits
        return of_hidden, of_weight, of_bias, None, None


def _chunks(rows: int, chunk: int) -> Iterator[slice]:
    return (slice(first, first + chunk) for first in range(0, rows, chunk))


def _chunk(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, form: _Form
) -> tuple[Tensor, Callable[[], Tensor]]:
    """(t,) log-probabilities of a chunk, and a function, to be called once, that returns their (t, V) derivatives.

    The derivatives, of each row's log-probability by the row's raw logits, take the memory of the logits.
    """
    logits = at_least_float32(functional.linear(hidden, weight, bias)).mul_(form.scale)  # (t, V)
    damping: Tensor | None = None
    if form.soft_cap is not None:
        capped = logits.div_(form.soft_cap).tanh_()
        damping = 1 - capped.square()
        logits = capped.mul_(form.soft_cap)
    logits.sub_(logits.amax(1, keepdim=True))
    wanted = logits.gather(1, targets[:, None]).lerp(logits.mean(1, keepdim=True), form.smoothing)
    exponentials = logits.exp_()
    total = exponentials.sum(1, keepdim=True)

    def derivatives() -> Tensor:
        found = exponentials.div_(total).neg_().add_(form.smoothing / len(weight))
        found.scatter_add_(1, targets[:, None], torch.full_like(total, 1 - form.smoothing))
        return (found if damping is None else found.mul_(damping)).mul_(form.scale)

    return (wanted - total.log()).squeeze(1), derivatives


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds `left @ right` to `total`, whose dtype may be wider."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
