"""What a pair's folder says about it, read without torch: its family, its loss, and how its images are made square."""

from __future__ import annotations

from typing import Literal, NamedTuple

from mmft.models.preprocessing import image_processor
from mmft.models.source import Source


class Family(NamedTuple):
    """How the encoders of a family are used.

    Attributes:
        first_token: a text is pooled by its first token; otherwise by the text transformer's own pooling.
        fixed_length: every text is padded to the longest one, and the padding is read like words, as in pretraining.
        sigmoid: it was trained by SigLIP's loss; otherwise by CLIP's.
        has_temperature: similarities are divided by a `temperature`; otherwise multiplied by exp(`logit_scale`).
    """

    first_token: bool = False
    fixed_length: bool = False
    sigmoid: bool = False
    has_temperature: bool = False


FAMILIES = {
    "clip": Family(),
    "metaclip_2": Family(),
    "chinese_clip": Family(first_token=True),
    "altclip": Family(),
    "siglip": Family(fixed_length=True, sigmoid=True),
    "align": Family(first_token=True, has_temperature=True),
    "vision-text-dual-encoder": Family(),
}
"""By transformers' `model_type`. SigLIP 2 of fixed size is a `siglip`."""


def family_of(source: Source) -> Family | str:
    """The family of the pair in a folder; if it is none, a sentence that says why."""
    if source.library != "transformers":
        return "it is an encoder of timm, not a pair."
    kind = str(source.config.get("model_type"))
    if kind == "siglip2":
        return "its images have any number of patches (NaFlex). Choose a SigLIP 2 of fixed size."
    return FAMILIES.get(kind) or f"its model_type {kind} is not that of a pair of encoders."


def is_pair(source: Source) -> bool:
    """Whether a folder holds a pair."""
    return isinstance(family_of(source), Family)


def resize_of(source: Source) -> Literal["squash", "crop"]:
    """How the pair's own preprocessing makes images square."""
    return "crop" if image_processor(source).get("do_center_crop") else "squash"
