"""`Views`: a fixed number of augmentations of each training image, so that what frozen layers make of them can be kept.

A data set of R rows with V views has R * (1 + V) images: at `position` a row's own, at `position + R * (1 + view)` one
that is augmented.
"""

from __future__ import annotations

import inspect
import json
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from mmft.config.schema.augment import AugmentConfig
from mmft.data.images import augment
from mmft.data.images.augment import Augmentation
from mmft.data.order import Stream, random_words


class Views:
    """The views of the images of a training split; each is a pure function of (seed, row, view).

    Args:
        count: views of each image.
        change: the augmentation.
        config: that it was made from.
        seed: of the run.
    """

    def __init__(self, count: int, change: Augmentation, config: AugmentConfig, seed: int) -> None:
        self.count, self.change, self.seed = count, change, seed
        of_images = {name: value for name, value in vars(config).items() if name not in config.OF_TEXTS}
        code = Path(inspect.getfile(augment)).read_text(encoding="utf-8")
        about = [of_images, seed, int(Stream.VIEWS), code, version("torch"), version("torchvision")]
        self._about = json.dumps(about, sort_keys=True, default=str).encode()

    def number(self, epoch: int, before: int) -> int:
        """The view of a row that occurs for the `before`-th time (from 0) in an epoch: all in turn."""
        return (epoch + before) % self.count

    def image(self, pixels: Tensor, row: int, number: int) -> Tensor:
        """(3, H, W) uint8 -> a view of it."""
        return self.change.image(pixels, int(random_words(1, self.seed, number, Stream.VIEWS, row)[0]) >> 1)

    def digest(self, of_image: bytes, row: int, number: int) -> bytes:
        """The key of a view in the store, from that of the image."""
        return blake2b(self._about + of_image + f"{row} {number}".encode(), digest_size=len(of_image)).digest()
