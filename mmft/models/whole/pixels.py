"""From a square uint8 image to the pixels that a model's own image processor makes of it, on the device.

Processors normalise an image, and some repeat it or cut it into patches. Where each number of their output comes from
is not looked up by architecture but found out: the processor is given images whose pixels are their own positions.

Legend: R images, S side of an image.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmft.errors import UserError, first_line
from mmft.models.image_encoder import KEY as IMAGE_KEY
from mmft.models.whole.loading import KEY

_WHOLE_IMAGES = {"do_image_splitting": False, "do_pan_and_scan": False, "crop_to_patches": False}
"""Settings of image processors that otherwise cut an image into tiles."""
_FREE_SIDE = 448
"""Side of the images of a model that reads any size."""
_DIGITS = 3  # of a position in base 256


class Pixels:
    """What an image processor does to an image of S x S pixels, besides normalising it.

    Args:
        processor: the image processor; it is set to images of that size in one piece.
        side: S; None for the processor's own, or 448 if it takes any.
        name: of the model, for messages.

    Raises:
        UserError: it does more to an image, or not with this size.

    Attributes:
        side: S.
        constants: what else the model wants to know about an image, (1, ...) each, by name.
    """

    def __init__(self, processor: Any, side: int | None, name: str) -> None:
        self._processor = processor
        for setting, value in _WHOLE_IMAGES.items():
            if hasattr(processor, setting):
                setattr(processor, setting, value)
        self.side = self._own_side() if side is None else side
        self._resize_to(self.side)
        try:
            found = self._positions()
        except Exception as error:
            raise UserError(f"{_where(name, side)}: its image processor fails: {first_line(error)}") from error
        self.index: Tensor = found.pop("pixel_values")  # (k, ...) positions in an image of 3 x S x S
        self.constants: dict[str, Tensor] = found
        self._check(name, side)

    @property
    def settings(self) -> dict[str, Any]:
        """Of the processor, for JSON."""
        found: dict[str, Any] = self._processor.to_dict()
        return found

    @property
    def in_one_piece(self) -> dict[str, bool]:
        """The processor's settings that keep it from cutting images into tiles."""
        return {name: value for name, value in _WHOLE_IMAGES.items() if hasattr(self._processor, name)}

    def trial(self) -> tuple[Tensor, Tensor]:
        """A normalised image of noise (1, 3, S, S), and (1, 0)."""
        images = torch.randn(1, 3, self.side, self.side, generator=torch.Generator().manual_seed(0))
        return images, torch.zeros(1, 0, dtype=torch.int64)

    def arranged(self, normalised: Tensor) -> Tensor:
        """(R, 3, S, S) normalised images -> (R k, ...) as the model takes them."""
        flat = normalised.flatten(1)  # (R, 3 S S)
        index = self.index.to(flat.device)
        return flat[:, index.flatten()].view(len(flat) * len(index), *index.shape[1:])

    def arguments(self, normalised: Tensor, _: Tensor) -> dict[str, Tensor]:
        """What `get_image_features` takes for normalised images (R, 3, S, S); nothing else is known of them, (R, 0)."""
        return {"pixel_values": self.arranged(normalised), **self.said(normalised)}

    def unread(self, like: Tensor, about: Tensor) -> dict[str, Tensor]:
        """The same for images whose pixels are not read; `like` () has their dtype and device, `about` is (R, 0)."""
        pixels = like.expand(len(about) * len(self.index), *self.index.shape[1:])
        return {"pixel_values": pixels, **self.said(about)}

    def said(self, about: Tensor) -> dict[str, Tensor]:
        """The constants of R images, of which nothing else is known: (R, 0)."""
        every = self.constants.items()
        return {name: value.to(about.device).repeat(len(about), *[1] * (value.ndim - 1)) for name, value in every}

    def processed(self, image: Tensor, **settings: Any) -> dict[str, Tensor]:
        """(3, h, w) uint8 -> the tensors of the processor's output."""
        found = self._processor(images=[image.permute(1, 2, 0).numpy()], return_tensors="pt", **settings)
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def _own_side(self) -> int:
        """The side of the squares that the processor makes."""
        if hasattr(self._processor, "image_grid_pinpoints"):
            return _one_side(self._processor.size)
        if hasattr(self._processor, "merge_size"):
            step = int(self._processor.patch_size * self._processor.merge_size)
            most = int(self._processor.size["longest_edge"] ** 0.5)
            return max(step, min(_FREE_SIDE, most) // step * step)
        own = getattr(self._processor, "max_image_size", None) or self._processor.size
        if getattr(self._processor, "do_center_crop", False):
            own = self._processor.crop_size
        return _one_side(own)

    def _resize_to(self, side: int) -> None:
        """Makes the processor's images squares of this side."""
        if hasattr(self._processor, "merge_size"):
            for frames in {1: None, getattr(self._processor, "temporal_patch_size", 1): None}:  # GLM counts all of them
                pixels = frames * side * side
                self._processor.size = {"shortest_edge": pixels, "longest_edge": pixels}
                if self._keeps(side):
                    return
            return
        if hasattr(self._processor, "image_grid_pinpoints"):
            self._processor.image_grid_pinpoints = [[side, side]]
        for name in ("size", "crop_size", "max_image_size"):
            own = getattr(self._processor, name, None)
            if own is not None:
                setattr(self._processor, name, {key: side for key, value in dict(own).items() if value is not None})

    def _keeps(self, side: int) -> bool:
        """Whether the processor leaves squares of this side as large as they are."""
        try:
            grid = self.processed(torch.zeros(3, side, side, dtype=torch.uint8))["image_grid_thw"]
        except Exception:  # noqa: BLE001 - told when the positions are asked for
            return False
        return int(grid[0, 1]) * int(self._processor.patch_size) == side

    def _positions(self) -> dict[str, Tensor]:
        """The processor's output for an image, with the position that it comes from in place of each pixel."""
        numbers = torch.arange(3 * self.side**2).view(3, self.side, self.side)
        found: dict[str, Tensor] = {}
        for digit in range(_DIGITS):
            image = (numbers // 256**digit % 256).to(torch.uint8)
            own = self.processed(image, do_rescale=False, do_normalize=False)
            digits = own["pixel_values"].round().long() * 256**digit
            found = own | {"pixel_values": digits + found.get("pixel_values", 0)}
        found["pixel_values"] = found["pixel_values"].clamp(0, numbers.numel() - 1)
        return found

    def _check(self, name: str, side: int | None) -> None:
        """Raises UserError if the processor does more to an image of noise than to arrange its pixels."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.randint(0, 256, (3, self.side, self.side), dtype=torch.uint8, generator=generator)
        wanted = self.processed(noise, do_rescale=False, do_normalize=False)["pixel_values"].float()
        found = self.arranged(noise[None].float())
        if wanted.shape != found.shape or not torch.equal(wanted, found):
            raise UserError(
                f"{_where(name, side)}: its image processor changes images of {self.side} x {self.side} pixels. Type "
                f"another {IMAGE_KEY}.image_size, such as a multiple of the size of its patches"
            )


def _one_side(size: Any) -> int:
    """The side that a processor's `size` stands for."""
    own = dict(size)
    return int(next(own[key] for key in ("height", "shortest_edge", "longest_edge") if own.get(key)))


def _where(name: str, side: int | None) -> str:
    return f"{KEY}={name}" + ("" if side is None else f" with {IMAGE_KEY}.image_size={side}")
