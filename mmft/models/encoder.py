"""Base of image and text encoders: pooling, layer numbers, and eval mode for frozen layers.

Legend: B batch, N tokens, D width.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from mmft.batch import Widths
from mmft.errors import UserError
from mmft.models.layers import blocks, layer_of, module_layers
from mmft.models.loading.source import Source


class Encoder(nn.Module):
    """A pretrained backbone behind one interface. Subclasses' `forward` returns `Encoded`.

    Attributes:
        backbone: the timm or transformers model.
        source: where the weights come from.
        width: D, the width of a token.
        pool: `cls`, `mean`, `cls_mean`, `last` or `own`, the backbone's own pooled output.
        live: layers that follow `train()`; None for all. The others always stay in eval mode (Lightning #18930):
            dropout off, running statistics fixed.
        adapters: names of modules added by a tuning method, which follow `train()` in every layer.
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
        """The widths that a fusion needs."""
        return Widths(self.width, self.pooled_width)

    @property
    def reads(self) -> dict[str, Any]:
        """What its output depends on beside its weights, its input and the library's config of it, for JSON.

        An encoder of your own has to define it for frozen work to be kept: with its settings, and a version of the code
        that it calls in other files.
        """
        return {}

    @property
    def top_layer(self) -> int:
        """Number of the last layer, the final norm's; it is empty if the encoder has no final norm."""
        return len(blocks(self.backbone)) + 1

    @property
    def frozen(self) -> bool:
        """Whether no parameter of it is trained; some may be although no layer is `live` (BitFit)."""
        return self.live == frozenset() and not any(parameter.requires_grad for parameter in self.parameters())

    def layers(self) -> dict[str, int]:
        """Layer number of every parameter by its name within this encoder; 0 for those outside the backbone."""
        own = {name: 0 for name, _ in self.named_parameters()}
        return own | {f"backbone.{name}": layer for name, layer in layer_of(self.backbone).items()}

    def train(self, mode: bool = True) -> Self:
        """Sets train or eval mode; frozen layers stay in eval mode."""
        super().train(mode and self.live is None)  # all in eval mode first unless wholly trained
        if mode and self.live is not None:
            for name in self.adapters:
                self.get_submodule(name).train()
            for name, layer in module_layers(self.backbone).items() if self.live else ():
                if layer in self.live:
                    self.backbone.get_submodule(name).train()
        return self


def pool_tokens(tokens: Tensor, mask: Tensor, how: str, prefix: int = 1) -> Tensor:
    """Pools tokens to one vector per row.

    Args:
        tokens: (B, N, D).
        mask: (B, N) bool, True = real token.
        how: `cls` the first token, `mean` of the real tokens after the prefix, `cls_mean` both concatenated, `last` the
            last real token, whichever side is padded.
        prefix: number of leading class and register tokens, excluded from the mean.

    Returns:
        (B, D), or (B, 2 D) for `cls_mean`.
    """
    if how == "cls":
        return tokens[:, 0]
    if how == "last":
        places = torch.arange(mask.shape[1], device=mask.device)  # (N,)
        return tokens[torch.arange(tokens.shape[0], device=mask.device), (places * mask).argmax(1)]
    weights = mask[:, prefix:].unsqueeze(-1).to(tokens.dtype)  # (B, N - prefix, 1)
    mean = (tokens[:, prefix:] * weights).sum(1) / weights.sum(1).clamp_min(1)  # (B, D)
    return mean if how == "mean" else torch.cat([tokens[:, 0], mean], dim=-1)


def check_pool(pool: str, key: str, has_class_token: bool, auto: str) -> str:
    """`pool` with `auto` resolved.

    Raises:
        UserError: the pooling needs a class token and the encoder has none.
    """
    if pool == "auto":
        return auto
    if pool.startswith("cls") and not has_class_token:
        raise UserError(f"{key}.pool={pool}: this encoder has no class token. Type {key}.pool=mean")
    return pool


def check_own_pool(pool: str, key: str, own_width: int, source: Source) -> None:
    """Checks that an encoder with `pool=own` has a pooled output.

    Args:
        pool: as resolved.
        key: the config key of the encoder, for messages.
        own_width: width of the backbone's pooled output; 0 without one.
        source: of the encoder.

    Raises:
        UserError: it has none.
    """
    if pool == "own" and not own_width:
        raise UserError(f"{key}.pool=own: {source.name} has no pooling of its own. Type {key}.pool=mean")
