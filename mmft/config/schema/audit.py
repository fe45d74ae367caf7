"""`audit`: how `mmft check` audits the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmft.config.fields import field


@dataclass(kw_only=True)
class AuditConfig:
    """`audit`: how `mmft check` audits the rows."""

    pictures: bool = True
    """Open every image; false: check the table only."""
    picture_bits: int = field(24, ge=0, le=96)
    """Images of two splits are similar if at most this many of the 256 bits of their hashes differ, and their colours
    hardly differ."""
    text_likeness: float = field(0.8, gt=0, le=1)
    """Texts of two splits are similar if they share at least this much of their character trigrams."""
    shown: int | None = field(5, ge=0)
    """Rows to print per kind of finding; null: all."""

    OF_FEATURES: ClassVar[tuple[str, ...]] = ("image_cosine", "text_cosine", "suspect_share", "suspect_deviations")
    """The keys that have an effect with `features=true` only."""
    image_cosine: float = field(0.7, gt=0, le=1)
    """With `features=true`: images are near duplicates if the cosine of their whitened features is at least this."""
    text_cosine: float = field(0.8, gt=0, le=1)
    """With `features=true`: as `image_cosine`, of texts."""
    suspect_share: float = field(0.5, gt=0, lt=1)
    """With `features=true`: share of its neighbours' votes that contradicts the label of a suspect, at least."""
    suspect_deviations: float = field(4.0, gt=0)
    """With `features=true`: distance of a suspect's number from its neighbours' mean, at least, in robust standard
    deviations of that distance; likewise how badly image and text fit, by a pretrained pair."""
