"""Converts Pillow images of any mode to RGB, without clipping deep ones or losing transparency, and to bytes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms
from torch import Tensor

Colour = tuple[int, ...]

_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_STORED_AS = {
    "HSV": "RGB",
    "RGBa": "RGBA",
    "La": "LA",
    "YCbCr": "RGB",
}  # what PNG lacks, and TIFF lacks or Pillow 12 misreads
_CHANNELS = (1, 3, 4)
IMAGES = "a path, encoded bytes, a binary file, a Pillow image, an array or a tensor"
"""What an image may be given as in Python."""

_NEEDED = "(H, W), (H, W, C) or (C, H, W) of uint8 or of floats from 0 to 1"


def to_rgb(image: Image.Image, background: Colour) -> Image.Image:
    """`image` in mode RGB, transparent pixels over `background`.

    Args:
        image: loaded, in any mode.
        background: red, green, blue from 0 to 255.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image).convert("RGB")
    if image.mode == "LAB":
        return _from_lab(image)
    if image.mode in _ALPHA or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (*background, 255)), layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def encoded(value: Any) -> bytes | None:
    """The encoded image that a Python value holds; None if its type is not that of an image.

    Pixels are encoded losslessly: as PNG, or as TIFF for modes that PNG lacks. The EXIF orientation is kept.

    Args:
        value: encoded bytes; a binary file object, read from its start; a Pillow image; an array or tensor of uint8, of
            bool, or of floats from 0 to 1, grey (H, W), or with 1, 3 (RGB) or 4 (RGBA) channels, first or last. If an
            array's could be either, they are the last.

    Raises:
        OSError, ValueError, KeyError: the image or file is closed, damaged or empty, the file is a text file, TIFF does
            not support the mode, or an array has another dtype, other values or another shape.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if hasattr(value, "read"):
        return _content(value)
    if isinstance(value, (np.ndarray, Tensor)):
        value = _from_array(value)
    if not isinstance(value, Image.Image):
        return None
    image = value.convert(_STORED_AS[value.mode]) if value.mode in _STORED_AS else value
    stream = io.BytesIO()
    form = "PNG" if image.mode in _PNG else "TIFF"
    image.save(stream, form, exif=image.getexif(), compress_level=1)
    return stream.getvalue()


def _content(file: Any) -> bytes:
    if getattr(file, "seekable", lambda: False)():
        file.seek(0)
    content = file.read()
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise ValueError("a file opened as text; open it with mode 'rb'")
    if not content:
        raise ValueError("an empty file, or one that was read to its end")
    return bytes(content)


def _from_array(given: npt.NDArray[Any] | Tensor) -> Image.Image:
    """The Pillow image of an array or tensor; raises ValueError if its meaning is not clear."""
    if isinstance(given, Tensor):
        what = f"a tensor of {str(given.dtype).removeprefix('torch.')} {tuple(given.shape)}"
        given = given.detach().cpu()
        values = (given.float() if given.is_floating_point() else given).resolve_neg().numpy()
        clear = given.ndim != 3 or not (given.shape[0] in _CHANNELS and given.shape[2] in _CHANNELS)
    else:
        what, values, clear = f"an array of {given.dtype} {given.shape}", given, True
    if values.ndim == 3 and values.shape[2] not in _CHANNELS and values.shape[0] in _CHANNELS:
        values = np.moveaxis(values, 0, 2)
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in _CHANNELS) or 0 in values.shape:
        raise ValueError(f"{what}, where {_NEEDED} is needed")
    if not clear:
        raise ValueError(f"{what}, whose first or last dimension may be the channels; give an array (H, W, C)")
    values = values[:, :, 0] if values.shape[2:] == (1,) else values
    return Image.fromarray(np.ascontiguousarray(_as_uint8(values, what)))


def _as_uint8(values: npt.NDArray[Any], what: str) -> npt.NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"{what}, where {_NEEDED} is needed")
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # also for nan
        raise ValueError(f"{what} with values from {low:.4g} to {high:.4g}, where {_NEEDED} is needed")
    rounded: npt.NDArray[np.uint8] = np.round(values.astype(np.float64) * 255).astype(np.uint8)
    return rounded


def _from_deep(image: Image.Image) -> Image.Image:
    """8-bit greyscale from a 16-bit, 32-bit or float image; Pillow's own conversion clips at 255."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = (0.0, 65535.0) if image.mode.startswith("I;16") else _range(values)
    scaled = (values - low) * (255.0 / (high - low))
    return Image.fromarray(np.round(scaled.clip(0, 255)).astype(np.uint8))


def _range(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Black and white level for modes without one: the first common range that fits, else minimum and maximum."""
    low, high = float(values.min()), float(values.max())
    if low >= 0:
        for white in (1.0, 255.0, 65535.0):
            if high <= white:
                return 0.0, white
    return low, high if high > low else low + 1.0


def _from_lab(image: Image.Image) -> Image.Image:
    """Converts CIELAB with the white point D50, as in TIFF files, to sRGB."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB").apply(image)
