"""Prompts: texts that stand for labels, by which a run over pairs classifies images without having learned labels.

Legend: C labels, P width of the shared space.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

NAME_ALONE = ("{}",)


def prompts_of(labels: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every template of every label, label by label; `_` in a name is a blank."""
    return [template.format(name.replace("_", " ")) for name in labels for template in templates]


def label_embeddings(fused: Tensor, labels: int) -> Tensor:
    """Fused features (prompts, 2 P) of `prompts_of` -> (C, P) the mean of each label's texts, of length 1."""
    text = fused.chunk(2, dim=-1)[1].view(labels, -1, fused.shape[-1] // 2)
    return functional.normalize(text.mean(1), dim=-1)
