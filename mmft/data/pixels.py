"""Converts Pillow images of any mode to RGB, without clipping deep ones or losing transparency, and to bytes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Colour = tuple[int, ...]

_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def to_rgb(image: Image.Image, background: Colour) -> Image.Image:
    """`image` in mode RGB, transparent pixels over `background`.

    Args:
        image: loaded, in any mode.
        background: red, green, blue from 0 to 255.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image).convert("RGB")
    if image.mode in _ALPHA or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (*background, 255)), layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def encoded(image: Image.Image | npt.NDArray[Any]) -> bytes:
    """Losslessly encodes an image in memory: as PNG, or as TIFF for modes that PNG lacks.

    The EXIF orientation is kept. Arrays must be uint8, (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA.

    Raises:
        OSError, ValueError, KeyError: the image is closed, its file is damaged or TIFF does not support its mode; or an
            array has another dtype or shape.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,), (4,)):
            raise ValueError(
                f"an array of {image.dtype} {image.shape}, where uint8 (H, W), (H, W, 3) or (H, W, 4) is needed"
            )
        image = Image.fromarray(image)
    stream = io.BytesIO()
    form = "PNG" if image.mode in _PNG else "TIFF"
    image.save(stream, form, exif=image.getexif(), compress_level=1)
    return stream.getvalue()


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
