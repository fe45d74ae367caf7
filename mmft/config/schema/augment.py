"""`data.augment`: how training rows are changed at random, each time that they come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mmft.config.fields import field
from mmft.config.registry import OptionConfig


@dataclass(kw_only=True)
class ImageAugmentConfig(OptionConfig):
    """`data.augment.extra`: base of augmentations of your own.

    Each builds what takes an image (3, H, W) uint8 and gives another; what it draws of torch's generator is a function
    of seed, epoch and row.
    """

    group_path = "data/augment/extra"


@dataclass(kw_only=True)
class AugmentConfig:
    """`data.augment`: images and texts of training rows, and of no others, changed at random; by default nothing is.

    `data/augment=light` and `data/augment=strong` set the keys of images that go with most rows; nothing that they
    set mirrors an image or takes words out of a text.
    """

    OF_IMAGES: ClassVar[tuple[str, ...]] = (
        "crop",
        "flip",
        "policy",
        "color_jitter",
        "erasing",
        "mixup",
        "cutmix",
        "extra",
    )
    OF_TEXTS: ClassVar[tuple[str, ...]] = ("token_dropout",)

    crop: float | None = field(None, gt=0, lt=1)
    """A part of the image, of at least this share of its area and 3:4 to 4:3, is enlarged to the whole; null: no."""
    flip: float = field(0.0, ge=0, le=1)
    """Probability that left and right are swapped. Never where an image holds writing, or where a text or a label may
    say left, right, or which way something looks."""
    policy: Literal["none", "trivial_augment", "rand_augment"] = "none"
    """`trivial_augment`: one random change of colour or geometry of random strength, up to turns of 135 degrees (Müller
    and Hutter 2021); `rand_augment`: several of one strength (Cubuk et al. 2020). Both may also invert bright parts, so
    that colours that a text names need not stay."""
    rand_augment_ops: int | None = field(None, ge=1, only_with="policy==rand_augment")
    """How many changes `rand_augment` makes; null: 2."""
    rand_augment_magnitude: int | None = field(None, ge=0, le=30, only_with="policy==rand_augment")
    """How strong they are, from 0 to 30; null: 9."""
    color_jitter: float = field(0.0, ge=0, le=1)
    """Brightness, contrast and saturation times 1 plus or minus at most this. The hue stays: texts name colours."""
    erasing: float = field(0.0, ge=0, le=1)
    """Probability that a rectangle of 2 to 33 % of the image is painted grey (Zhong et al. 2020)."""
    mixup: float = field(0.0, ge=0)
    """Images are blended with another row's, by shares from Beta(this, this), and so are the targets (Zhang et al.
    2018); the text stays the row's own, and so does most of the image and of the target. 0: no."""
    cutmix: float = field(0.0, ge=0)
    """The same with a rectangle of another row's image in the place of blending (Yun et al. 2019); with `mixup` each
    has half of the rows. 0: no."""
    extra: dict[str, ImageAugmentConfig] | None = None
    """Augmentations of images of your own, after the others, by any names: `{mine:OPTION}` or
    `{mine:{type:OPTION,key:value}}` (docs/extend.md)."""
    token_dropout: float = field(0.0, ge=0, lt=1)
    """Probability that a token of the text is left out; special tokens stay, and one other does."""
