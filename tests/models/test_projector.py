"""Image tokens for a language model: all, pooled 2 x 2, pixel-shuffled."""

from __future__ import annotations

import pytest
import torch

from mmft.batch import Encoded, Widths
from mmft.errors import UserError
from mmft.models.fusion.projector import Projector


def encoded(count: int, width: int = 4) -> Encoded:
    tokens = torch.arange(2 * count * width, dtype=torch.float32).view(2, count, width)
    return Encoded(tokens, torch.ones(2, count, dtype=torch.bool), tokens[:, 0])


def projector(tokens: str, prefix: int = 1, layers: str = "linear") -> Projector:
    return Projector(Widths(4, 4), Widths(6, 6), layers, tokens, prefix)


@pytest.mark.parametrize("layers", ["linear", "mlp"])
@pytest.mark.parametrize(("tokens", "count"), [("all", 16), ("pooled", 4), ("pixel_shuffle", 4)])
def test_shapes(tokens: str, count: int, layers: str) -> None:
    found = projector(tokens, layers=layers)(encoded(17))
    assert found.shape == (2, count, 6)


def test_every_patch_without_the_class_token() -> None:
    made, image = projector("all"), encoded(5)
    assert torch.equal(made(image), made.layers(image.tokens[:, 1:]))
    alone = encoded(1)  # a class token and nothing else
    assert torch.equal(made(alone), made.layers(alone.tokens))


def test_squares_of_patches() -> None:
    """Of a 4 x 4 grid, the second square is columns 2 and 3 of rows 0 and 1."""
    image = encoded(16)
    square = image.tokens[:, [2, 3, 6, 7]]  # (2, 4, 4)
    pooled, shuffled = projector("pooled", 0), projector("pixel_shuffle", 0)
    torch.testing.assert_close(pooled(image)[:, 1], pooled.layers(square.mean(1)))
    torch.testing.assert_close(shuffled(image)[:, 1], shuffled.layers(square.flatten(1)))


def test_patches_that_are_no_square_are_refused() -> None:
    with pytest.raises(UserError, match=r"tokens=pooled: the image encoder's 6 tokens are no square"):
        projector("pooled", 0)(encoded(6))
