"""What an image encoder's folder says about its images: their size, and mean and standard deviation of their pixels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from mmft.errors import UserError
from mmft.models.loading.source import Source, read_json
from mmft.models.pairs.open_clip_config import MEAN, STD, preprocessing

log = logging.getLogger(__name__)
_BILINEAR, _BICUBIC = 2, 3  # in `resample`, as Pillow counts
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def side_of(config: Any) -> int | None:
    """The side in pixels of the square images that a transformers config declares; None if it declares none."""
    size = getattr(config, "image_size", None)
    if isinstance(size, list | tuple) and size:
        size = size[-1]
    return int(size) if isinstance(size, int | float) and size > 0 else None


def processed_size(source: Source) -> int | None:
    """The side in pixels of the square images that a folder's image processor makes; None if it does not say."""
    own = image_processor(source)
    return _side(own, "crop_size" if own.get("do_center_crop") else "size")


def crop_pct_of_processor(source: Source) -> float:
    """The side of the square that an image processor cuts, as a share of the side that it scales images to."""
    own = image_processor(source)
    cut, scaled = (_side(own, name) if own.get("do_center_crop") else None for name in ("crop_size", "size"))
    return 1.0 if cut is None or scaled is None else cut / scaled


def _side(settings: Mapping[str, Any], name: str) -> int | None:
    size = settings.get(name)
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    return size if isinstance(size, int) else None


def check_processor(source: Source) -> None:
    """Checks that images can be prepared as a folder's image processor does, and warns of Lanczos' and other filters.

    Raises:
        UserError: it does what mmft does not.
    """
    own = image_processor(source)
    why = ""
    if own.get("do_resize") is False:
        why = "leaves images in their own size"
    elif own.get("do_flip_channel_order"):
        why = "reads images as blue, green and red"
    elif crop_pct_of_processor(source) > 1:
        why = "cuts squares that are larger than what it scales images to"
    if why:
        raise UserError(
            f"{source.name}: its image processor {why}, which mmft does not. Prepare images that need none of it, and "
            f"say so in {source.folder / 'preprocessor_config.json'}"
        )
    if (given := own.get("resample")) not in (None, _BILINEAR, _BICUBIC):
        log.warning(
            "%s: its images were scaled by Pillow's filter %s; mmft takes the bicubic one: other pixels by a little",
            *(source.name, given),
        )


def check_square(source: Source, key: str) -> None:
    """Rejects a transformers model of images that are not square: positions are resampled from a square alone.

    Raises:
        UserError: it is one.
    """
    size = _vision(source.config).get("image_size")
    if isinstance(size, list) and len(set(size[-2:])) > 1:
        raise UserError(
            f"{key}.name={source.name}: it is made for images of {size[-2]} x {size[-1]} pixels (height x width), and "
            "mmft's images are square. Choose an encoder of square images."
        )


def patch_size_of(backbone: Any) -> Any:
    """What a model of transformers or timm declares as the side of its patches; None without patches."""
    holder = getattr(backbone, "config", None) or getattr(backbone, "patch_embed", None)
    return getattr(holder, "patch_size", None)


def check_patches(image_size: int | None, patch_size: Any, key: str) -> None:
    """Rejects an image size that is no multiple of the patches' side: the rest of each image would not be seen.

    Args:
        image_size: as typed; None for the encoder's own, which may leave a rest.
        patch_size: one number or two; anything else is not checked.
        key: the config key of the encoder, for messages.

    Raises:
        UserError: it is no multiple.
    """
    side = patch_size[-1] if isinstance(patch_size, list | tuple) and patch_size else patch_size
    if image_size is None or not isinstance(side, int) or side < 1 or image_size % side == 0:
        return
    below = image_size // side * side
    raise UserError(
        f"{key}.image_size={image_size} is not a multiple of the encoder's patch size of {side}. "
        f"Type {below or side} or {below + side}"
    )


def mean_and_std(source: Source, key: str) -> tuple[Any, Any]:
    """Mean and standard deviation of the pixels, three numbers each, of values from 0 to 1; ImageNet's if not given."""
    if source.library == "open_clip":
        own = preprocessing(source)
        return own.get("mean", MEAN), own.get("std", STD)
    own = source.config.get("pretrained_cfg") or {}
    mean, std = own.get("mean"), own.get("std")
    if mean is None and source.library != "own":
        own = image_processor(source)
        mean, std = own.get("image_mean"), own.get("image_std")
        if own.get("do_normalize") is False:
            mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        if mean is not None and std is not None:
            return _rescaled(own, mean, std)
    if mean is None or std is None:
        level = logging.WARNING if source.library == "transformers" else logging.INFO  # its models have many
        log.log(level, "%s: %s does not declare pixel mean and std; using ImageNet's", key, source.name)
        return _IMAGENET
    return mean, std


def _rescaled(own: Mapping[str, Any], mean: Any, std: Any) -> tuple[Any, Any]:
    """Mean and std of values from 0 to 1, where a processor takes them of values that it scales otherwise."""
    rescales = own.get("do_rescale") is not False
    factor = 255 * (own.get("rescale_factor", 1 / 255) if rescales else 1)
    less = 1.0 if rescales and own.get("rescale_offset") else 0.0
    if (factor, less) == (1.0, 0.0):
        return mean, std
    many = [value if isinstance(value, list | tuple) else [value] * 3 for value in (mean, std)]
    return [(one + less) / factor for one in many[0]], [one / factor for one in many[1]]


def resize_of_processor(source: Source) -> Literal["squash", "crop"]:
    """How an image processor of transformers makes images square."""
    own = image_processor(source)
    size = own.get("size")
    return "crop" if own.get("do_center_crop") and not (isinstance(size, dict) and "height" in size) else "squash"


def resample_of_processor(source: Source) -> Literal["bicubic", "bilinear"]:
    """How an image processor of transformers interpolates pixels, where mmft can; see `check_processor`."""
    return "bilinear" if image_processor(source).get("resample") == _BILINEAR else "bicubic"


def image_processor(source: Source) -> dict[str, Any]:
    """The image processor's settings; empty if the folder has none. transformers 5 keeps them in processor_config.

    Raises:
        UserError: a file of them holds no JSON object.
    """
    own, of_whole = (_settings(source.folder / f"{name}_config.json") for name in ("preprocessor", "processor"))
    inner = of_whole.get("image_processor")
    return own or (inner if isinstance(inner, dict) else {})


def _settings(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is none."""
    found = read_json(file)
    if not found and file.is_file() and file.read_bytes().split() != [b"{}"]:
        raise UserError(f"{file} holds no JSON object, so that it is not known how its images are prepared")
    return found


def _vision(config: dict[str, Any]) -> dict[str, Any]:
    inner = config.get("vision_config")
    return inner if isinstance(inner, dict) else config
