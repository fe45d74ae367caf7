"""`model/fusion`: how two encoded modalities become one feature vector."""

from __future__ import annotations

from dataclasses import dataclass

from mmft.config.fields import field
from mmft.config.registry import OptionConfig, option


@dataclass(kw_only=True)
class FusionConfig(OptionConfig):
    """`model/fusion`: how two encoded modalities become one feature vector."""


@option("model/fusion", "concat", builds="mmft.models.fusion.concat:ConcatFusion")
@dataclass(kw_only=True)
class ConcatConfig(FusionConfig):
    """An MLP over both pooled features side by side: LayerNorm, linear, GELU, dropout."""

    hidden: int = field(512, ge=1)
    """Width of the hidden layer, which is also the width that the head gets."""
    dropout: float = field(0.1, ge=0, lt=1)
    """Dropout before the head; `model.dropout` overrides it."""


@option("model/fusion", "gated", builds="mmft.models.fusion.gated:GatedFusion")
@dataclass(kw_only=True)
class GatedConfig(FusionConfig):
    """A gated multimodal unit over both pooled features: each row decides how much of either goes through."""

    hidden: int = field(512, ge=1)
    """Width of the gated features, which is also the width that the head gets."""
    dropout: float = field(0.1, ge=0, lt=1)
    """Dropout before the head; `model.dropout` overrides it."""


@option("model/fusion", "merged", builds="mmft.models.fusion.merged:MergedFusion")
@dataclass(kw_only=True)
class MergedConfig(FusionConfig):
    """One transformer over the tokens of both encoders, with a class token that is read out."""

    width: int = field(256, ge=1)
    """Width that both encoders' tokens are projected to, which is also the width that the head gets."""
    layers: int = field(2, ge=1)
    """Transformer blocks."""
    heads: int = field(4, ge=1)
    """Attention heads of each block; they share `width` evenly."""
    dropout: float = field(0.1, ge=0, lt=1)
    """Dropout of tokens, attention weights and both branches of each block; `model.dropout` overrides it."""
