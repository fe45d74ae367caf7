"""`model`: two pretrained encoders and the fusion (`fusion.py`) that couples them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmft.config.fields import field
from mmft.config.registry import OptionConfig, option
from mmft.config.schema.fusion import FusionConfig

ENCODERS = ("image_encoder", "text_encoder")
"""The two of every model; keys, modules and optimizer groups are named by them."""

Pool = Literal["auto", "cls", "mean", "cls_mean"]


@dataclass(kw_only=True)
class ImageEncoderConfig(OptionConfig):
    """`model.image_encoder`: what turns an image into tokens."""

    name: str
    """A folder in timm's or transformers' format, or a hub name (`timm/...` or `hf/...` where it could be both)."""
    image_size: int | None = field(None, ge=8)
    """Height and width in pixels; positions are resampled; null: the encoder's own."""
    pool: Pool = "auto"
    """`cls` class token, `mean` of the patches, `cls_mean` both; auto: class token where there is one, with the mean
    for `model/fusion=dual`. A fusion of tokens is not given it; `model.auxiliary` and `modality_report` are."""
    pretrained: bool = True
    """false: the architecture with random weights."""


@option("model/image_encoder", "default", builds="mmft.models.image_encoder:build_image_encoder")
@dataclass(kw_only=True)
class AnyImageEncoderConfig(ImageEncoderConfig):
    """Any timm model or transformers vision model."""


@dataclass(kw_only=True)
class TextEncoderConfig(OptionConfig):
    """`model.text_encoder`: what turns a text into tokens."""

    name: str
    """A folder in transformers' format, or a hub name."""
    max_length: int | None = field(None, ge=4)
    """Tokens that a text is cut to, special tokens included; null: the encoder's own maximum, at most 512."""
    pool: Pool = "auto"
    """`cls` first token, `mean` of the real tokens, `cls_mean` both; auto: mean. As with the image encoder's, a
    fusion of tokens is not given it."""
    pretrained: bool = True
    """false: the architecture with random weights."""


@option("model/text_encoder", "default", builds="mmft.models.text_encoder:build_text_encoder")
@dataclass(kw_only=True)
class AnyTextEncoderConfig(TextEncoderConfig):
    """Any transformers text encoder with its tokenizer."""


@dataclass(kw_only=True)
class AuxiliaryConfig:
    """`model.auxiliary`: what training makes small besides the task's own loss, on each encoder's pooled features.

    Every loss is logged as `train/loss/...`. The heads that they need are not part of the finished model.
    """

    modality_weight: float = field(0.0, ge=0)
    """Weight of the task's loss by the image alone, and by the text alone, each with a head of its own; 0: none."""
    alignment: Literal["none", "kl", "contrastive"] = "none"
    """Draws the features of a row's image and of its text together in a shared space. `kl`: as two distributions
    (half the sum of both Kullback-Leibler divergences), which projections that tell little apart make small, too;
    `contrastive`: nearer than those of other rows of the batch (InfoNCE; the same image, text or group is no other
    row)."""
    alignment_weight: float | None = field(None, gt=0, only_with="alignment=contrastive")
    """Weight of the alignment; null: 0.1."""
    alignment_width: int | None = field(None, ge=1, only_with="alignment=contrastive")
    """Width of the shared space; null: 256."""


@dataclass(kw_only=True)
class ModelConfig:
    """`model`: encoders, fusion, dropout."""

    image_encoder: ImageEncoderConfig
    """The image encoder."""
    text_encoder: TextEncoderConfig
    """The text encoder."""
    fusion: FusionConfig
    """The fusion."""
    auxiliary: AuxiliaryConfig = field(factory=AuxiliaryConfig)
    """Losses of training besides the task's."""
    dropout: float | None = field(None, ge=0, lt=1)
    """Dropout everywhere, attention included (not stochastic depth); null: each part's own."""
    modality_dropout: float = field(0.0, ge=0, lt=1)
    """In training a row that has both loses its image or its text (half each) with this probability, so that the
    model also works with either alone (see `mmft test modalities=true`); 0: none does."""
