"""Prompts: texts that represent labels, for zero-shot image classification with a contrastive model.

Legend: C labels, P width of the shared space.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

NAME_ALONE = ("{}",)


def prompts_of(labels: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every template of every label, label by label; `_` in a name becomes a space."""
    return [template.format(name.replace("_", " ")) for name in labels for template in templates]


def label_embeddings(fused: Tensor, labels: int) -> Tensor:
    """Fused features (prompts, 2 P) of `prompts_of` -> (C, P) mean text embedding of each label, unit length."""
    text = fused.chunk(2, dim=-1)[1].view(labels, -1, fused.shape[-1] // 2)  # (C, templates, P)
    return functional.normalize(text.mean(1), dim=-1)
