"""`model`: two pretrained encoders and the fusion (`fusion.py`) that combines them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmft.config.fields import field
from mmft.config.registry import OptionConfig, option
from mmft.config.schema.fusion import FusionConfig

MODALITY = {"image_encoder": "image", "text_encoder": "text"}
"""What each encoder reads; keys, modules and optimizer groups are named after encoders, columns after modalities."""
ENCODERS = tuple(MODALITY)

Pool = Literal["auto", "cls", "mean", "cls_mean", "own"]
TextPool = Literal["auto", "cls", "mean", "cls_mean", "last", "own"]


@dataclass(kw_only=True)
class ImageEncoderConfig(OptionConfig):
    """`model.image_encoder`: turns an image into tokens."""

    name: str
    """A folder in timm's or transformers' format, or a hub name (`timm/...` or `hf/...` where it is ambiguous)."""
    image_size: int | None = field(None, ge=8)
    """Height and width in pixels; position embeddings are resampled; null: the encoder's own."""
    pool: Pool = "auto"
    """`cls`: class token; `mean`: mean of the patches; `cls_mean`: both; `own`: the model's own pooling, with the
    weights of its pooling layer if it has one; auto: `own` with `model.pair`, else the class token if there is one, and
    with the mean for `model/fusion=dual`. Token fusions ignore it; `model.auxiliary` and `modality_report` use it."""
    pretrained: bool = True
    """Load pretrained weights; false: random weights."""


@option("model/image_encoder", "default", builds="mmft.models.image_encoder:build_image_encoder")
@dataclass(kw_only=True)
class AnyImageEncoderConfig(ImageEncoderConfig):
    """Any timm model or transformers vision model."""

    feature_layer: int | None = None
    """Read tokens from the output of this block, in front of the final norm: from 1 on, or -1 for the last block and -2
    for the one before, as LLaVA's `vision_feature_layer`. Blocks above it and the norm are left out. For vision
    transformers; null: all blocks and the norm."""


@dataclass(kw_only=True)
class TextEncoderConfig(OptionConfig):
    """`model.text_encoder`: turns a text into tokens."""

    name: str
    """A folder in transformers' format, or a hub name."""
    max_length: int | None = field(None, ge=4)
    """Tokens to which a text is truncated, including special tokens; null: the encoder's own maximum, at most 512."""
    pool: TextPool = "auto"
    """`cls`: first token; `mean`: mean of the real tokens; `cls_mean`: both; `last`: last real token; `own`: the
    model's own pooling, such as BERT's pooler; auto: `own` with `model.pair`, else as sentence-transformers saved in
    the folder, else `last` for a causal model and `mean` for others. As with the image encoder, token fusions ignore
    it."""
    pretrained: bool = True
    """Load pretrained weights; false: random weights."""


@option("model/text_encoder", "default", builds="mmft.models.text_encoder:build_text_encoder")
@dataclass(kw_only=True)
class AnyTextEncoderConfig(TextEncoderConfig):
    """Any transformers text encoder with its tokenizer."""


@dataclass(kw_only=True)
class AuxiliaryConfig:
    """`model.auxiliary`: auxiliary losses on each encoder's pooled features, added to the task's own loss.

    Each is logged as `train/loss/...`. The heads that they need are not part of the final model.
    """

    modality_weight: float = field(0.0, ge=0, needs_trained_encoder=True)
    """Weight of the task's loss from the image alone and from the text alone, each with its own head; 0: off."""
    alignment: Literal["none", "kl", "contrastive"] = field(
        "none",
        not_with=dict.fromkeys(
            ("data.augment.mixup", "data.augment.cutmix"), "it makes an image belong to two texts. Choose one"
        ),
        needs_trained_encoder=True,
    )
    """Align the features of a row's image and text in a shared space. `kl`: as two distributions, by half the sum of
    both Kullback-Leibler divergences, which collapsed projections minimise as well; `contrastive`: closer than to
    other rows of the batch, by InfoNCE (rows with the same image, text or group do not count as others)."""
    alignment_weight: float | None = field(None, gt=0, only_with="alignment=contrastive")
    """Weight of the alignment; null: 0.1."""
    alignment_width: int | None = field(None, ge=2, only_with="alignment=contrastive")
    """Width of the shared space; null: 256."""
    distillation_weight: float = field(0.0, ge=0, needs_trained_encoder=True)
    """Weight of the distance of each trained encoder's pooled features from those of its pretrained start, squared and
    relative to their length (feature distillation, as LDIFS; Mukhoti et al., 2023, arXiv 2308.13320), such as 1. A
    frozen copy of the encoder, without LoRA and the like, is kept in memory and runs beside it; 0: off."""


@dataclass(kw_only=True)
class ModelConfig:
    """`model`: encoders, fusion, dropout."""

    pair: str | None = None
    """A pretrained pair of encoders as a whole (CLIP, SigLIP, ALIGN ...), a folder or a hub name: both encoders with
    their own pooling, padding and preprocessing, their projections (`model/fusion=pretrained`), temperature and bias;
    null: two separate encoders."""
    whole: str | None = None
    """A pretrained vision-language model as a whole (SmolVLM, LLaVA, Qwen2.5-VL, PaliGemma ...; what transformers loads
    as AutoModelForImageTextToText), a folder or a hub name: its image encoder, its projector
    (`model/fusion=whole`), its language model and its processor; for `task=generation`; null: separate encoders."""
    tiles: bool = False
    """With `model.whole`: cuts and resizes each image as the model's own processor does it, into tiles (SmolVLM,
    LLaVA-NeXT, InternVL ...) or patches at its own proportions (Qwen), with as many tokens as that image needs; false:
    each image is one square."""
    image_encoder: ImageEncoderConfig
    """The image encoder."""
    text_encoder: TextEncoderConfig
    """The text encoder."""
    fusion: FusionConfig
    """The fusion."""
    auxiliary: AuxiliaryConfig = field(factory=AuxiliaryConfig)
    """Auxiliary losses in training."""
    dropout: float | None = field(None, ge=0, lt=1)
    """Dropout of the whole model, including attention but not stochastic depth; null: each component's own."""
    modality_dropout: float = field(0.0, ge=0, lt=1)
    """Probability that a training row with both modalities loses one (image or text, equally likely), so that the
    model also works with either alone (see `mmft test modalities=true`); 0: off."""
