"""Images as small squares, and which of them are the same."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

SIDE = 112
HASH_SIDE = 16
SAME, ALIKE = 2, 24  # of 256 bits: the same image; one that may be a copy
_PLAIN = 8  # an image with fewer bits than these is blank


def opened(data: bytes, svg: bool) -> np.ndarray | None:
    """An encoded image as (112, 112, 3) uint8 over white, squashed to a square as mmft reads images.

    None where it cannot be read.
    """
    try:
        return squashed(Image.open(io.BytesIO(_png(data) if svg else data)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _png(svg: bytes) -> bytes:
    import resvg_py  # only where rows are made

    text = svg.decode("utf-8", "replace")
    return bytes(resvg_py.svg_to_bytes(svg_string=text, width=2 * SIDE, background="white"))


def squashed(image: Image.Image) -> np.ndarray:
    """Any image as (112, 112, 3) uint8 over white."""
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    rgb = Image.alpha_composite(white, rgba).convert("RGB")
    return np.asarray(rgb.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def jpeg(image: np.ndarray) -> bytes:
    """JPEG bytes of (H, W, 3) uint8."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=90)
    return out.getvalue()


def difference_hash(image: np.ndarray) -> np.ndarray | None:
    """(4,) uint64: whether each cell of a 16 x 16 grid over what is not white is brighter than its right neighbour.

    None where the image is blank.
    """
    grey = np.asarray(Image.fromarray(image).convert("L"))
    rows, columns = (np.flatnonzero((grey < 245).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    trimmed = grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    small = Image.fromarray(trimmed).resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    cells = np.asarray(small, np.int16)
    bits = (cells[:, :-1] > cells[:, 1:]).ravel()
    return np.packbits(bits).view(np.uint64) if bits.sum() > _PLAIN else None


class Seen:
    """The hashes met so far."""

    def __init__(self) -> None:
        self._hashes = np.zeros((1024, 4), np.uint64)
        self.count = 0

    def add(self, code: np.ndarray) -> None:
        """Remembers a hash under the next number."""
        if self.count == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.zeros_like(self._hashes)])
        self._hashes[self.count] = code
        self.count += 1

    def nearest(self, code: np.ndarray) -> tuple[int, int]:
        """The number of the nearest hash and by how many bits it differs; (-1, 256) where there is none."""
        if not self.count:
            return -1, 256
        bits = np.bitwise_count(self._hashes[: self.count] ^ code).sum(axis=1)
        return int(bits.argmin()), int(bits.min())
