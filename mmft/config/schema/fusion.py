"""`model/fusion`: how two encoded modalities become one feature vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mmft.config.fields import field
from mmft.config.registry import OptionConfig, option


@dataclass(kw_only=True)
class FusionConfig(OptionConfig):
    """`model/fusion`: how two encoded modalities become one feature vector.

    The fusion's class has this class as its `facts`, so that each fact stands here alone. It needs no torch.

    Attributes:
        reads: which of an encoder's outputs it looks at, pooled features or tokens.
        embeds_apart: each modality is embedded by itself: for pairwise tasks, and for them alone.
        image_pool: what `model.image_encoder.pool=auto` means where there is a class token.
    """

    reads: ClassVar[Literal["pooled", "tokens"]] = "pooled"
    embeds_apart: ClassVar[bool] = False
    image_pool: ClassVar[str] = "cls"


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
    """Width of the fused features, which is also the width that the head gets."""
    dropout: float = field(0.1, ge=0, lt=1)
    """Dropout before the head; `model.dropout` overrides it."""


@option("model/fusion", "merged", builds="mmft.models.fusion.merged:MergedFusion")
@dataclass(kw_only=True)
class MergedConfig(FusionConfig):
    """One transformer over the tokens of both encoders, with a class token that is read out."""

    reads = "tokens"

    width: int = field(256, ge=1)
    """Width that both encoders' tokens are projected to, which is also the width that the head gets."""
    layers: int = field(2, ge=1)
    """Transformer blocks."""
    heads: int = field(4, ge=1)
    """Attention heads of each block; they share `width` evenly."""
    dropout: float = field(0.1, ge=0, lt=1)
    """Dropout of tokens, attention weights and every branch of each block; `model.dropout` overrides it."""


@option("model/fusion", "film", builds="mmft.models.fusion.film:FilmFusion")
@dataclass(kw_only=True)
class FilmConfig(FusionConfig):
    """Feature-wise linear modulation: one modality scales and shifts the features of the other's tokens."""

    reads = "tokens"

    condition: Literal["text", "image"] = "text"
    """The modality that modulates the other one, whose tokens' mean is read out."""
    width: int = field(256, ge=1)
    """Width that both encoders' tokens are projected to, which is also the width that the head gets."""
    layers: int = field(2, ge=1)
    """Modulated blocks, each an MLP."""
    dropout: float = field(0.1, ge=0, lt=1)
    """Dropout of tokens and inside each block; `model.dropout` overrides it."""


@option("model/fusion", "low_rank", builds="mmft.models.fusion.low_rank:LowRankFusion")
@dataclass(kw_only=True)
class LowRankConfig(FusionConfig):
    """All products of both pooled features, and either's own, weighted by a tensor of low rank."""

    hidden: int = field(512, ge=1)
    """Width of the fused features, which is also the width that the head gets."""
    rank: int = field(4, ge=1)
    """Rank of the tensor: more gives more kinds of products, and parameters in proportion."""
    dropout: float = field(0.1, ge=0, lt=1)
    """Dropout before the head; `model.dropout` overrides it."""


@option("model/fusion", "cross", builds="mmft.models.fusion.cross:CrossFusion")
@dataclass(kw_only=True)
class CrossConfig(FusionConfig):
    """Co-attention: the tokens of either encoder look at the other's, in two streams; their means are read out."""

    reads = "tokens"

    width: int = field(256, ge=1)
    """Width that both encoders' tokens are projected to; the head gets twice that."""
    layers: int = field(2, ge=1)
    """Blocks, each of cross-attention, self-attention and MLP for either stream."""
    heads: int = field(4, ge=1)
    """Attention heads of each block; they share `width` evenly."""
    dropout: float = field(0.1, ge=0, lt=1)
    """Dropout of tokens, attention weights and every branch of each block; `model.dropout` overrides it."""


@option("model/fusion", "resampler", builds="mmft.models.fusion.resampler:ResamplerFusion")
@dataclass(kw_only=True)
class ResamplerConfig(FusionConfig):
    """Learned queries that look at the tokens of both encoders; their mean is read out. For many tokens."""

    reads = "tokens"

    width: int = field(256, ge=1)
    """Width that both encoders' tokens are projected to, which is also the width that the head gets."""
    queries: int = field(8, ge=1)
    """Learned queries."""
    layers: int = field(2, ge=1)
    """Transformer blocks."""
    heads: int = field(4, ge=1)
    """Attention heads of each block; they share `width` evenly."""
    dropout: float = field(0.1, ge=0, lt=1)
    """Dropout of tokens, attention weights and every branch of each block; `model.dropout` overrides it."""


@option("model/fusion", "dual", builds="mmft.models.fusion.dual:DualFusion")
@dataclass(kw_only=True)
class DualConfig(FusionConfig):
    """None: each pooled feature is projected to one shared space, by itself. For `task=contrastive`."""

    embeds_apart = True
    image_pool = "cls_mean"

    width: int = field(256, ge=1)
    """Width of the shared space."""
    hidden: int | None = field(None, ge=1)
    """Width of a hidden layer in both projections, with GELU; null: they are linear."""
    dropout: float = field(0.1, ge=0, lt=1)
    """Dropout before the last linear layer; `model.dropout` overrides it."""
