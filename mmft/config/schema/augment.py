"""`data.augment`: random augmentation of training rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mmft.config.fields import field
from mmft.config.registry import OptionConfig


@dataclass(kw_only=True)
class ImageAugmentConfig(OptionConfig):
    """`data.augment.extra`: base of your own augmentations.

    Each builds a callable from image to image, (3, H, W) uint8. Draws from torch's generator depend on seed, epoch
    and row.
    """

    group_path = "data/augment/extra"


@dataclass(kw_only=True)
class AugmentConfig:
    """`data.augment`: random changes to images and texts of training rows only; off by default.

    `data/augment=light` and `data/augment=strong` set image augmentations that suit most data. Neither flips images or
    drops words from a text.
    """

    OF_TEXTS: ClassVar = ("token_dropout",)  # all others are of images

    crop: float | None = field(None, gt=0, lt=1)
    """Smallest area of a random crop, as a share of the image; aspect ratios are 3:4 to 4:3; null: no cropping."""
    flip: float = field(0.0, ge=0, le=1)
    """Probability of a horizontal flip. Keep 0 if images contain writing, or if texts or labels may mention left, right
    or the direction in which something faces."""
    policy: Literal["none", "trivial_augment", "rand_augment"] = "none"
    """`trivial_augment`: one random change of colour or geometry at random strength, with rotations up to 135 degrees
    (Müller and Hutter 2021); `rand_augment`: several at one strength (Cubuk et al. 2020). Both may invert bright
    regions (solarize), so colours that a text names may change."""
    rand_augment_ops: int | None = field(None, ge=1, only_with="policy==rand_augment")
    """Number of changes that `rand_augment` makes; null: 2."""
    rand_augment_magnitude: int | None = field(None, ge=0, le=30, only_with="policy==rand_augment")
    """Strength of these changes, from 0 to 30; null: 9."""
    color_jitter: float = field(0.0, ge=0, le=1)
    """Largest relative change of brightness, contrast and saturation. Hue is kept, because texts name colours."""
    erasing: float = field(0.0, ge=0, le=1)
    """Probability that a rectangle covering 2 to 33 % of the image is filled with grey (Zhong et al. 2020)."""
    mixup: float = field(0.0, ge=0)
    """Blend image and target with another row's, in ratios drawn from Beta(this, this) (Zhang et al. 2018). The text
    and the larger part of image and target stay the row's own. 0: off."""
    cutmix: float = field(0.0, ge=0)
    """Like `mixup`, but paste a rectangle of another row's image instead of blending (Yun et al. 2019). If both are
    on, each applies to half of the rows. 0: off."""
    extra: dict[str, ImageAugmentConfig] | None = None
    """Your own image augmentations, applied after the others, under any names: `{mine:OPTION}` or
    `{mine:{type:OPTION,key:value}}` (docs/extend.md)."""
    token_dropout: float = field(0.0, ge=0, lt=1)
    """Probability of dropping each token of the text; special tokens and at least one other are kept."""
