"""What a pair's folder says about it, read without torch: its family, its loss, and how its images are made square."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from mmft.models.loading.source import Source
from mmft.models.pairs.open_clip_config import (
    RESIZES,
    model_config,
    preprocessing,
    refusal,
    text_kind,
    text_pool,
)
from mmft.models.preprocessing import crop_pct_of_processor, resample_of_processor, resize_of_processor


class Family(NamedTuple):
    """How the encoders of a family are used.

    Attributes:
        text_pool: `own`, the text transformer's own pooling; or `cls`, the first token; or `mean`.
        fixed_length: every text is padded to the longest one, and the padding is read like words, as in pretraining.
        sigmoid: it was trained by SigLIP's loss; otherwise by CLIP's.
        has_temperature: similarities are divided by a `temperature`; otherwise multiplied by exp(`logit_scale`).
    """

    text_pool: str = "own"
    fixed_length: bool = False
    sigmoid: bool = False
    has_temperature: bool = False


FAMILIES = {
    "clip": Family(),
    "metaclip_2": Family(),
    "chinese_clip": Family(text_pool="cls"),
    "altclip": Family(),
    "siglip": Family(fixed_length=True, sigmoid=True),
    "align": Family(text_pool="cls", has_temperature=True),
    "vision-text-dual-encoder": Family(),
}
"""By transformers' `model_type`. SigLIP 2 of fixed size is a `siglip`."""


def family_of(source: Source) -> Family | str:
    """The family of the pair in a folder; if it is none, a sentence that says why."""
    if source.library == "open_clip":
        return refusal(source) or _of_open_clip(model_config(source))
    if source.library != "transformers":
        return "it is an encoder of timm, not a pair."
    kind = str(source.config.get("model_type"))
    if kind == "siglip2":
        return "its images have any number of patches (NaFlex). Choose a SigLIP 2 of fixed size."
    return FAMILIES.get(kind) or f"its model_type {kind} is not that of a pair of encoders."


def _of_open_clip(model: dict[str, Any]) -> Family:
    text = model["text_cfg"]
    sigmoid = model.get("init_logit_bias") is not None
    return Family(text_pool(text), fixed_length=text_kind(text) == "bidirectional", sigmoid=sigmoid)


def is_pair(source: Source) -> bool:
    """Whether a folder holds a pair."""
    return isinstance(family_of(source), Family)


def resize_of(source: Source) -> Literal["squash", "crop", "pad"]:
    """How the pair's own preprocessing makes images square."""
    if source.library == "open_clip":
        return RESIZES[preprocessing(source).get("resize_mode", "shortest")]
    return resize_of_processor(source)


def crop_pct_of(source: Source) -> float:
    """The side of the square as a share of the side that the pair's own preprocessing scales images to."""
    return 1.0 if source.library == "open_clip" else crop_pct_of_processor(source)


def resample_of(source: Source) -> Literal["bicubic", "bilinear"]:
    """How the pair's own preprocessing interpolates pixels."""
    if source.library == "open_clip":
        return "bilinear" if preprocessing(source).get("interpolation") == "bilinear" else "bicubic"
    return resample_of_processor(source)
