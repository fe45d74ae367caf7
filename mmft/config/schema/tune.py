"""`tune`: what is trained. `tune` sets both towers through `tune/image_encoder` and `tune/text_encoder`."""

from __future__ import annotations

from dataclasses import dataclass

from mmft.config.fields import field
from mmft.config.registry import OptionConfig, option


@dataclass(kw_only=True)
class TowerTuneConfig(OptionConfig):
    """Base of the tuning methods of one tower."""


@dataclass(kw_only=True)
class FullConfig(TowerTuneConfig):
    """Every parameter of the tower is trained."""

    lr: float | None = field(None, gt=0)
    """This tower's learning rate; null: `optim.lr`, and where that is null too, 5e-5."""


@dataclass(kw_only=True)
class FreezeConfig(TowerTuneConfig):
    """Nothing of the tower is trained: no gradient, no decay, eval mode, buffers unchanged."""


@option("tune/image_encoder", "full", builds="mmft.tuning.methods:Full")
@dataclass(kw_only=True)
class ImageFullConfig(FullConfig):
    """Every parameter of the image encoder is trained."""


@option("tune/image_encoder", "freeze", builds="mmft.tuning.methods:Freeze")
@dataclass(kw_only=True)
class ImageFreezeConfig(FreezeConfig):
    """Nothing of the image encoder is trained."""


@option("tune/text_encoder", "full", builds="mmft.tuning.methods:Full")
@dataclass(kw_only=True)
class TextFullConfig(FullConfig):
    """Every parameter of the text encoder is trained."""


@option("tune/text_encoder", "freeze", builds="mmft.tuning.methods:Freeze")
@dataclass(kw_only=True)
class TextFreezeConfig(FreezeConfig):
    """Nothing of the text encoder is trained."""


@dataclass(kw_only=True)
class TuneConfig:
    """`tune`: the method of each tower; fusion and head are always trained."""

    image_encoder: TowerTuneConfig
    """The image encoder's method."""
    text_encoder: TowerTuneConfig
    """The text encoder's method."""
