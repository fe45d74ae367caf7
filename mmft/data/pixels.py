"""Decoded pictures of any Pillow mode: into RGB, without clipping deep ones or losing transparency, and into bytes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Colour = tuple[int, ...]

_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def to_rgb(picture: Image.Image, background: Colour) -> Image.Image:
    """`picture` in mode RGB, transparent pixels over `background`.

    Args:
        picture: loaded, in any mode.
        background: red, green, blue from 0 to 255.
    """
    if picture.mode.startswith("I") or picture.mode == "F":
        return _from_deep(picture).convert("RGB")
    if picture.mode in _ALPHA or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (*background, 255)), layer).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def encoded(picture: Image.Image | npt.NDArray[Any]) -> bytes:
    """A picture in memory as bytes that the same pixels are read from: PNG, or TIFF for what PNG has no mode for.

    What its EXIF data say of its turn is kept. An array is uint8, (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA.

    Raises:
        OSError, ValueError, KeyError: it is closed, or its file is damaged, or TIFF has no such mode either; or an
            array is of another type or shape.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (3,), (4,)):
            raise ValueError(
                f"an array of {picture.dtype} {picture.shape}, where uint8 (H, W), (H, W, 3) or (H, W, 4) is needed"
            )
        picture = Image.fromarray(picture)
    stream = io.BytesIO()
    form = "PNG" if picture.mode in _PNG else "TIFF"
    picture.save(stream, form, exif=picture.getexif(), compress_level=1)
    return stream.getvalue()


def _from_deep(picture: Image.Image) -> Image.Image:
    """8-bit grey of a 16-bit, 32-bit or float picture; Pillow's own conversion clips at 255."""
    values = np.nan_to_num(np.asarray(picture).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = (0.0, 65535.0) if picture.mode.startswith("I;16") else _range(values)
    scaled = (values - low) * (255.0 / (high - low))
    return Image.fromarray(np.round(scaled.clip(0, 255)).astype(np.uint8))


def _range(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Black and white of a picture whose mode has no range of its own: the first usual range that it
    fits, else its darkest and brightest pixel.
    """
    low, high = float(values.min()), float(values.max())
    if low >= 0:
        for white in (1.0, 255.0, 65535.0):
            if high <= white:
                return 0.0, white
    return low, high if high > low else low + 1.0
