"""Prompts: texts that represent labels, for zero-shot image classification with a contrastive model.

Legend: C labels, P width of the shared space.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmft.config.wording import listed
from mmft.errors import UserError
from mmft.tasks.template_sets import TEMPLATE_SETS

NAME_ALONE = ("{}",)


def templates_of(given: str | Sequence[str] | None) -> list[str]:
    """Templates by the name of a set, or as given; None for the label's name alone.

    Raises:
        UserError: there is no set of this name.
    """
    if not isinstance(given, str):
        return list(NAME_ALONE if given is None else given)
    if given not in TEMPLATE_SETS:
        raise UserError(
            f"templates: {given} is not a set of templates. Give a list, or one of {listed(TEMPLATE_SETS)}."
        )
    return list(TEMPLATE_SETS[given])


def prompts_of(labels: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every template of every label, label by label; `_` in a name becomes a space."""
    return [template.format(name.replace("_", " ")) for name in labels for template in templates]


def label_embeddings(fused: Tensor, labels: int) -> Tensor:
    """Fused features (prompts, 2 P) of `prompts_of` -> (C, P) mean text embedding of each label, unit length."""
    text = fused.chunk(2, dim=-1)[1].view(labels, -1, fused.shape[-1] // 2)  # (C, templates, P)
    return functional.normalize(text.mean(1), dim=-1)


def fill_from_prompts(head: nn.Module, texts: Tensor, scale: float) -> None:
    """Makes a linear head over fused features (B, 2 P) the zero-shot classifier of images.

    Args:
        head: (B, 2 P) -> (B, C).
        texts: (C, P) unit-length label embeddings.
        scale: factor of similarities.
    """
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.zero_()
        head.weight[:, : texts.shape[1]] = scale * texts.to(head.weight)
        head.bias.zero_()
