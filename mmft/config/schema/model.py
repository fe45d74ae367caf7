"""`model`: two pretrained encoders and the fusion (`fusion.py`) that couples them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmft.config.fields import field
from mmft.config.schema.fusion import FusionConfig

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
    modality_dropout: float = field(0.0, ge=0, lt=1)
    """In training a row that has both loses its picture or its text (half each) with this probability, so that the
    model also works with either alone (see `mmft test modalities=true`); 0: none does."""
