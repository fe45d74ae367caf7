"""`model/fusion`: how the features of two encoders are combined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mmft.config.fields import field
from mmft.config.registry import OptionConfig, option


@dataclass(kw_only=True)
class FusionConfig(OptionConfig):
    """`model/fusion`: how the features of two encoders are combined.

    The fusion class refers to this one as its `facts`, so each fact is stated once, without importing torch.

    Attributes:
        reads: the encoder outputs that it uses, pooled features or tokens.
        embeds_apart: whether each modality is embedded separately, which pairwise tasks need; other tasks need a
            fusion for which it is false, or None: fits every task.
        additive: each output is of one modality alone, so that a linear head on it cannot compare image and text.
        of_pair: it is made of parts of `model.pair`.
        of_whole: it is made of parts of `model.whole`.
        generates: it puts image tokens into a language model's sequence, for tasks that generate text.
        image_pool: what `model.image_encoder.pool=auto` means for an encoder with a class token.
    """

    reads: ClassVar[Literal["pooled", "tokens"]] = "pooled"
    embeds_apart: ClassVar[bool | None] = False
    additive: ClassVar[bool] = False
    of_pair: ClassVar[bool] = False
    of_whole: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    image_pool: ClassVar[str] = "cls"


@dataclass(kw_only=True)
class _PooledFusionConfig(FusionConfig):
    hidden: int = field(512, ge=1)
    """Width of the fused features, which are the input of the head."""
    dropout: float = field(0.1, ge=0, lt=1)
    """Dropout before the head; `model.dropout` overrides it."""


@dataclass(kw_only=True)
class _TransformerFusionConfig(FusionConfig):
    reads = "tokens"

    width: int = field(256, ge=1)
    """Width to which both encoders' tokens are projected, which is the input of the head."""
    layers: int = field(2, ge=1)
    """Number of transformer blocks."""
    heads: int = field(4, ge=1)
    """Attention heads per block; must divide `width`."""
    dropout: float = field(0.1, ge=0, lt=1)
    """Dropout of tokens, attention weights and every residual branch; `model.dropout` overrides it."""


@option("model/fusion", "concat", builds="mmft.models.fusion.concat:ConcatFusion")
@dataclass(kw_only=True)
class ConcatConfig(_PooledFusionConfig):
    """An MLP over the concatenated pooled features: LayerNorm, linear, GELU, dropout."""


@option("model/fusion", "linear", builds="mmft.models.fusion.linear:LinearFusion")
@dataclass(kw_only=True)
class LinearConfig(FusionConfig):
    """The concatenated pooled features and nothing learned, so that the head is a linear probe; for `tune=probe`."""

    additive = True


@option("model/fusion", "gated", builds="mmft.models.fusion.gated:GatedFusion")
@dataclass(kw_only=True)
class GatedConfig(_PooledFusionConfig):
    """A gated multimodal unit over both pooled features: each row weighs image against text."""


@option("model/fusion", "merged", builds="mmft.models.fusion.merged:MergedFusion")
@dataclass(kw_only=True)
class MergedConfig(_TransformerFusionConfig):
    """A transformer over the tokens of both encoders; a class token is the output."""


@option("model/fusion", "film", builds="mmft.models.fusion.film:FilmFusion")
@dataclass(kw_only=True)
class FilmConfig(FusionConfig):
    """Feature-wise linear modulation: one modality scales and shifts the features of the other's tokens."""

    reads = "tokens"

    condition: Literal["text", "image"] = "text"
    """The modality that modulates the other; the mean of the other's tokens is the output."""
    width: int = field(256, ge=1)
    """Width to which both encoders' tokens are projected, which is the input of the head."""
    layers: int = field(2, ge=1)
    """Number of modulated MLP blocks."""
    dropout: float = field(0.1, ge=0, lt=1)
    """Dropout of tokens and inside each block; `model.dropout` overrides it."""


@option("model/fusion", "low_rank", builds="mmft.models.fusion.low_rank:LowRankFusion")
@dataclass(kw_only=True)
class LowRankConfig(_PooledFusionConfig):
    """Low-rank bilinear fusion: all products of both pooled features, and the features alone."""

    rank: int = field(4, ge=1)
    """Rank of the weight tensor; capacity and parameters grow with it."""


@option("model/fusion", "cross", builds="mmft.models.fusion.cross:CrossFusion")
@dataclass(kw_only=True)
class CrossConfig(_TransformerFusionConfig):
    """Co-attention: two streams of tokens attend to each other; their means are the output."""

    width: int = field(256, ge=1)
    """Width to which both encoders' tokens are projected; the input of the head is twice that."""
    layers: int = field(2, ge=1)
    """Number of blocks, each with cross-attention, self-attention and MLP for both streams."""


@option("model/fusion", "resampler", builds="mmft.models.fusion.resampler:ResamplerFusion")
@dataclass(kw_only=True)
class ResamplerConfig(_TransformerFusionConfig):
    """Learned queries attend to the tokens of both encoders; their mean is the output. For many tokens."""

    queries: int = field(8, ge=1)
    """Number of learned queries."""


@option("model/fusion", "dual", builds="mmft.models.fusion.dual:DualFusion")
@dataclass(kw_only=True)
class DualConfig(FusionConfig):
    """No fusion: both pooled features are projected separately into a shared space. For `task=contrastive`."""

    embeds_apart = True
    image_pool = "cls_mean"

    width: int = field(256, ge=1)
    """Width of the shared space."""
    hidden: int | None = field(None, ge=1)
    """Width of a hidden layer with GELU in both projections; null: linear projections."""
    dropout: float = field(0.1, ge=0, lt=1)
    """Dropout before the last linear layer; `model.dropout` overrides it."""
    norm: bool = True
    """LayerNorm before each projection."""
    bias: bool = True
    """Bias in the linear layers of both projections. Without norm, bias and hidden layer, and with `pool=own` of both
    encoders, `mmft export format=transformers` writes the whole model."""


@option("model/fusion", "pretrained", builds="mmft.models.fusion.pretrained:PretrainedFusion")
@dataclass(kw_only=True)
class PretrainedConfig(FusionConfig):
    """The projections of `model.pair` into its shared space: the default with `model.pair`, but for tasks that compare
    a row's image with its text.
    """

    additive = True
    embeds_apart = None
    of_pair = True


@option("model/fusion", "projector", builds="mmft.models.fusion.projector:Projector")
@dataclass(kw_only=True)
class ProjectorConfig(FusionConfig):
    """Image tokens become tokens of a causal language model (LLaVA), `model.text_encoder`. For `task=generation`."""

    reads = "tokens"
    generates = True

    layers: Literal["linear", "mlp"] = "mlp"
    """The projection into the language model's embeddings: one linear layer, or two with GELU (LLaVA 1.5)."""
    tokens: Literal["all", "pooled", "pixel_shuffle"] = "all"
    """Which image tokens the language model reads. `all`: every patch; `pooled`: the mean of every 2 x 2 patches;
    `pixel_shuffle`: every 2 x 2 patches side by side, as one token four times as wide. Class and register tokens are
    left out; without patches in a square, only `all` is possible."""


@option("model/fusion", "whole", builds="mmft.models.fusion.whole:WholeFusion")
@dataclass(kw_only=True)
class WholeConfig(FusionConfig):
    """What `model.whole` has between image encoder and language model; the default with `model.whole`."""

    reads = "tokens"
    generates = True
    of_whole = True
