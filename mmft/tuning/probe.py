"""Probes an encoder with one forward pass over a small input, for facts that names and types do not reveal.

Legend: B batch, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Size, Tensor, nn

from mmft.batch import Encoded
from mmft.models.encoder import Encoder
from mmft.models.image_encoder import ImageEncoder
from mmft.models.layers import evaluated


def run_once(encoder: Encoder) -> Encoded:
    """The encoder's output for one black image, or one text of four tokens; in eval mode, without gradients.

    Args:
        encoder: on any device; its train and eval modes are restored.
    """
    like = next(encoder.parameters())
    given: tuple[Tensor, ...]
    if isinstance(encoder, ImageEncoder):
        given = (encoder.blank(1),)
    else:
        ids = torch.arange(4, device=like.device).unsqueeze(0)  # (1, 4)
        given = (ids, torch.ones_like(ids, dtype=torch.bool))
    with torch.no_grad(), evaluated(encoder):
        encoded: Encoded = encoder(*given)
    return encoded


def shapes(encoder: Encoder, modules: Iterable[nn.Module]) -> dict[nn.Module, list[tuple[Size | None, Size | None]]]:
    """The shapes of the first input and the (first) output, for every call of these modules in one pass.

    None for anything but a tensor; a module that is not called has an empty list.
    """
    found: dict[nn.Module, list[tuple[Size | None, Size | None]]] = {module: [] for module in modules}

    def note(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        found[module].append((_shape(given[0] if given else None), _shape(first_of(output))))

    hooks = [module.register_forward_hook(note) for module in found]
    try:
        run_once(encoder)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def first_of(output: Any) -> Any:
    """A module's output, or the first of several: some attention modules also return their weights."""
    return output[0] if isinstance(output, tuple) else output


def replaced(output: Any, first: Tensor) -> Any:
    """`output` with its first tensor replaced."""
    return (first, *output[1:]) if isinstance(output, tuple) else first


def _shape(value: Any) -> Size | None:
    return value.shape if isinstance(value, Tensor) else None
