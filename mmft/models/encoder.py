"""What image and text encoders have in common: pooling, layers, and staying in eval mode while frozen.

Legend: B batch, N tokens, D width.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from mmft.batch import Widths
from mmft.errors import UserError
from mmft.models.layers import blocks, layer_of, module_layers
from mmft.models.source import Source


class Encoder(nn.Module):
    """A pretrained backbone behind one interface. Subclasses' `forward` returns `Encoded`.

    Attributes:
        backbone: the timm or transformers model.
        source: where it came from.
        width: D, the width of a token.
        pool: `cls`, `mean` or `cls_mean`.
        live: layers that go to train mode; None: the whole encoder. The others stay in eval mode whatever `train()`
            says (Lightning #18930): their dropout is off, their running statistics stay.
        adapters: names of modules that a tuning method has added, which go to train mode wherever they are.
    """

    def __init__(self, backbone: nn.Module, source: Source, width: int, pool: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.source = source
        self.width = width
        self.pool = pool
        self.live: frozenset[int] | None = None
        self.adapters: set[str] = set()

    @property
    def pooled_width(self) -> int:
        """Width of `Encoded.pooled`."""
        return self.width * (2 if self.pool == "cls_mean" else 1)

    @property
    def widths(self) -> Widths:
        """What a fusion must know of it."""
        return Widths(self.width, self.pooled_width)

    @property
    def top_layer(self) -> int:
        """Number of the last layer, the final norm's; an encoder whose blocks end in norms has none in it."""
        return len(blocks(self.backbone)) + 1

    @property
    def frozen(self) -> bool:
        """Whether nothing of it is trained."""
        return self.live == frozenset() and not self.adapters

    def layers(self) -> dict[str, int]:
        """Layer number of every parameter, by its name within this encoder; 0 for what is not the backbone's."""
        own = {name: 0 for name, _ in self.named_parameters()}
        return own | {f"backbone.{name}": layer for name, layer in layer_of(self.backbone).items()}

    def train(self, mode: bool = True) -> Self:
        """Sets train or eval mode; what is frozen stays in eval mode."""
        super().train(mode and self.live is None)
        if mode and self.live is not None:
            for name in self.adapters:
                self.get_submodule(name).train()
            for name, layer in module_layers(self.backbone).items() if self.live else ():
                if layer in self.live:
                    self.backbone.get_submodule(name).train()
        return self


def pool_tokens(tokens: Tensor, mask: Tensor, how: str, prefix: int = 1) -> Tensor:
    """One vector per row.

    Args:
        tokens: (B, N, D).
        mask: (B, N) bool, True = real token.
        how: `cls` the first token, `mean` of the real tokens after the prefix, `cls_mean` both side by side.
        prefix: class and register tokens in front, which the mean leaves out.

    Returns:
        (B, D), or (B, 2 D) for `cls_mean`.
    """
    if how == "cls":
        return tokens[:, 0]
    weights = mask[:, prefix:].unsqueeze(-1).to(tokens.dtype)  # (B, N - prefix, 1)
    mean = (tokens[:, prefix:] * weights).sum(1) / weights.sum(1).clamp_min(1)
    return mean if how == "mean" else torch.cat([tokens[:, 0], mean], dim=-1)


def check_pool(pool: str, key: str, has_class_token: bool, auto: str) -> str:
    """`pool` with `auto` resolved.

    Raises:
        UserError: a class token is asked for where there is none.
    """
    if pool == "auto":
        return auto
    if pool.startswith("cls") and not has_class_token:
        raise UserError(f"{key}.pool={pool}: this encoder has no class token; use mean.")
    return pool
