"""`model`: two pretrained encoders and the fusion that couples them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mmft.config.fields import field
from mmft.config.registry import OptionConfig, option

Pool = Literal["auto", "cls", "mean", "cls_mean"]


@dataclass(kw_only=True)
class ImageEncoderConfig:
    """`model.image_encoder`: any timm model or transformers vision model."""

    name: str
    """A folder in timm's or transformers' format, or a hub name (`timm/...` or `hf/...` where it could be both)."""
    image_size: int | None = field(None, ge=8)
    """Height and width in pixels; positions are resampled; null: the encoder's own."""
    pool: Pool = "auto"
    """`cls` class token, `mean` of the patches, `cls_mean` both; auto: class token where there is one, with the mean
    for `model/fusion=dual`."""
    pretrained: bool = True
    """false: the architecture with random weights."""


@dataclass(kw_only=True)
class TextEncoderConfig:
    """`model.text_encoder`: any transformers text encoder with its tokenizer."""

    name: str
    """A folder in transformers' format, or a hub name."""
    max_length: int | None = field(None, ge=4)
    """Tokens that a text is cut to, special tokens included; null: the encoder's own maximum, at most 512."""
    pool: Pool = "auto"
    """`cls` first token, `mean` of the real tokens, `cls_mean` both; auto: mean."""
    pretrained: bool = True
    """false: the architecture with random weights."""


@dataclass(kw_only=True)
class FusionConfig(OptionConfig):
    """`model/fusion`: how two encoded modalities become one feature vector."""

    for_pairs: ClassVar[bool] = False  # whether it is for tasks over pairs of rows, and for them alone
    image_pool: ClassVar[str] = "cls"  # what `model.image_encoder.pool=auto` means where there is a class token


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


@option("model/fusion", "dual", builds="mmft.models.fusion.dual:DualFusion")
@dataclass(kw_only=True)
class DualConfig(FusionConfig):
    """None: each pooled feature is projected to one shared space, by itself. For `task=contrastive`."""

    for_pairs = True
    image_pool = "cls_mean"

    width: int = field(256, ge=1)
    """Width of the shared space."""
    hidden: int | None = field(None, ge=1)
    """Width of a hidden layer in both projections, with GELU; null: they are linear."""
    dropout: float = field(0.1, ge=0, lt=1)
    """Dropout before the last linear layer; `model.dropout` overrides it."""


@dataclass(kw_only=True)
class ModelConfig:
    """`model`: encoders, fusion, dropout."""

    image_encoder: ImageEncoderConfig
    """The image encoder."""
    text_encoder: TextEncoderConfig
    """The text encoder."""
    fusion: FusionConfig
    """The fusion."""
    dropout: float | None = field(None, ge=0, lt=1)
    """Dropout everywhere, attention included (not stochastic depth); null: each part's own."""
