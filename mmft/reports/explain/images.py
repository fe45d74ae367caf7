"""The images of an explained row, and what their parts contribute; also of images that a model reads in pieces.

Where a number of a piece comes from is asked of the model's own processor, with an image whose colours are places: red
grows from left to right, green from top to bottom. Pieces that overlap, or show the whole image once more, count each.

Legend: I images, P pieces, K numbers of an image or cells per side of a map, H W image height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmft.batch import Batch
from mmft.batch.images import ImagesInPrompt, Pieces
from mmft.models.language.prompt_tokenizer import IMAGE_MARK

Pixels = npt.NDArray[np.uint8]
_COLOURS = 256


def seen_images(
    batch: Batch, kind: ImagesInPrompt | None, sources: Sequence[str | bytes], read: Callable[[str | bytes], Pixels]
) -> list[Pixels]:
    """The images (H, W, 3) of the only row of a batch as a model reads them: squares, or uncut; none without an image.

    Args:
        batch: of one row.
        kind: how images become pieces; None if they do not.
        sources: the row's, in order.
        read: source -> (H, W, 3) the whole image.
    """
    if not bool(batch.image_present.all()):
        return []
    if kind is not None and kind.cuts:
        return [read(source) for source in sources]
    squares = batch.pixel_values if batch.images is None else batch.images.pieces.values
    return [] if squares is None else [one.permute(1, 2, 0).numpy() for one in squares.cpu()]


def blank_pieces(images: Sequence[Pixels], colour: tuple[int, int, int], kind: ImagesInPrompt) -> Pieces:
    """The pieces of images of the same sizes and one colour."""
    return Pieces.together([kind.cut(np.broadcast_to(np.array(colour, np.uint8), one.shape).copy()) for one in images])


def cells_of_images(
    contributions: Tensor | None, images: Sequence[Pixels], kind: ImagesInPrompt | None, cells: int
) -> list[Tensor]:
    """(H, W) contributions of a square's pixels, or (P, ...) of pieces -> (K, K) sums over the parts of each image."""
    if contributions is None:
        return []
    if kind is None:
        return [cell_sums(contributions, cells)]
    found, start = [], 0
    for image in images:
        places = kind.cut(_places(*image.shape[:2])).values
        own = contributions[start : start + len(places)]
        start += len(places)
        column, row, _ = (places.view(len(places), 3, -1).long() * cells // _COLOURS).unbind(1)
        summed = own.reshape(len(places), 3, -1).sum(1)
        flat = own.new_zeros(cells * cells).index_add(0, (row * cells + column).flatten(), summed.flatten())
        found.append(flat.view(cells, cells))
    return found


def cell_sums(values: Tensor, cells: int) -> Tensor:
    """(H, W) -> (K, K) sums over parts that are as even as possible; the total is unchanged."""
    for dimension in (0, 1):
        size = values.shape[dimension]
        part = torch.arange(size) * cells // size
        shape = [cells if d == dimension else length for d, length in enumerate(values.shape)]
        values = values.new_zeros(shape).index_add(dimension, part, values)
    return values


def _places(height: int, width: int) -> Pixels:
    """(H, W, 3): red is the place from left to right, green from top to bottom."""
    down, along = ((np.arange(size) + 0.5) * _COLOURS // size for size in (height, width))
    return np.stack([*np.broadcast_arrays(along[None], down[:, None]), np.zeros((height, width))], 2).astype(np.uint8)


def prompt_of(batch: Batch, kind: ImagesInPrompt | None) -> dict[int, int]:
    """The tokens of a batch's only row by their places, without padding, with one mark for each image in pieces."""
    assert batch.input_ids is not None
    assert batch.attention_mask is not None
    ids: list[int] = batch.input_ids[batch.attention_mask].tolist()
    images = []
    if batch.images is not None and kind is not None:
        images = [kind.expanded([IMAGE_MARK], one[None]) for one in batch.images.pieces.about]
    found, at = dict[int, int](), 0
    while at < len(ids):
        own = images[0] if images and ids[at : at + len(images[0])] == images[0] else None
        found[at] = ids[at] if own is None else IMAGE_MARK
        at += 1 if own is None else len(images.pop(0))
    return found
