"""Images for tests: a few coloured boxes on white."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def encoded(image: Image.Image, form: str = "PNG", **options: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def drawing(seed: int, size: int = 200) -> Image.Image:
    """A few coloured boxes on white."""
    generator = np.random.default_rng(seed)
    pixels = np.full((size, size, 3), 255, np.uint8)
    for _ in range(6):
        top, left = generator.integers(0, size * 3 // 4, 2)
        height, width = generator.integers(size // 8, size // 2, 2)
        pixels[top : top + height, left : left + width] = generator.integers(0, 256, 3)
    return Image.fromarray(pixels)
