"""An encoder in two parts gives what it gives in one go, whatever else is in the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from make_shapes import captions
from tiny_encoders import IMAGE_KINDS
from tiny_transformers import IMAGES, TEXTS, write_image_encoder, write_text_encoder
from torch import Tensor

from mmft.batch import Encoded, Features
from mmft.models.encoder import Encoder
from mmft.models.frozen_part import CannotSplitError, FrozenPart
from mmft.models.image_encoder import build_image_encoder
from mmft.models.text_encoder import build_text_encoder

ROWS = 13
LENGTHS = [5, 8, 3, 24, 7, 2, 9, 16, 17, 12, 2, 6, 20]
READS_PADDING = {"convbert", "mobilebert", "nystromformer", "fnet"}
NOT_IN_PARTS = {"pvt_v2", "poolformer", "albert", "timm_resnet"}
QUICK = {"dinov2", "swin", "convnext", "bert", "deberta_v2", "siglip"}


def images(size: int = 64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return (torch.randint(0, 256, (ROWS, 3, size, size), dtype=torch.uint8, generator=generator),)


def texts() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(24) < torch.tensor(LENGTHS)[:, None]
    return torch.randint(5, 40, (ROWS, 24), generator=generator) * mask, mask


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=1e-5 * float(one.abs().max()))


def continued(part: FrozenPart, inputs: tuple[Tensor, ...], there: Tensor | None = None) -> Encoded:
    """From what the lower part computed, of all rows or of those that are `there`; images need not be given then."""
    values = part.compute(inputs)
    if there is None:
        return part.encoded(inputs if len(inputs) > 1 else None, Features.of_all(values))
    kept = tuple(value * there.view(-1, *[1] * (value.ndim - 1)) for value in values)
    return part.encoded(inputs, Features(there, kept))


def checked(encoder: Encoder, inputs: tuple[Tensor, ...], layer: int | None) -> None:
    part = FrozenPart(encoder.eval(), layer, "tokens", exact=True)
    part.check()
    with torch.no_grad():
        whole, found = encoder(*inputs), continued(part, inputs)
        mixed = continued(part, inputs, torch.arange(ROWS) % 3 > 0)
    assert torch.equal(whole.mask, found.mask)
    assert close(whole.tokens[whole.mask], found.tokens[whole.mask])
    assert close(whole.pooled, found.pooled)
    assert torch.equal(mixed.pooled, found.pooled)
    for row in (0, 4, 11):  # alone, to the last bit
        length = (LENGTHS[row] + 7) // 8 * 8
        own = tuple(value[row : row + 1] for value in inputs)
        own = own if len(own) == 1 else tuple(value[:, :length] for value in own)
        for alone, together in zip(part.compute(own), part.compute(inputs), strict=True):
            assert torch.equal(alone[0], together[row][: alone.shape[1]] if alone.ndim == 3 else together[row])


def layers_of(encoder: Encoder) -> list[int | None]:
    return [None, *range(2, encoder.top_layer + 1)]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[] if kind in QUICK else pytest.mark.slow)
        for kind in IMAGES
        if kind not in NOT_IN_PARTS
    ],
)
def test_images(kind: str, tmp_path: Path) -> None:
    encoder = build_image_encoder(str(write_image_encoder(kind, tmp_path)), 64, "auto", pretrained=True)
    for layer in layers_of(encoder):
        checked(encoder, images(), layer)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[] if kind in QUICK else pytest.mark.slow)
        for kind in TEXTS
        if kind not in NOT_IN_PARTS | READS_PADDING
    ],
)
def test_texts(kind: str, tmp_path: Path) -> None:
    encoder = build_text_encoder(str(write_text_encoder(kind, captions(), tmp_path)), None, "auto", pretrained=True)
    for layer in layers_of(encoder):
        checked(encoder, texts(), layer)


@pytest.mark.parametrize("kind", [kind for kind in IMAGE_KINDS if kind.startswith("timm")])
def test_timm(kind: str, image_encoder_folder: Any) -> None:
    encoder = build_image_encoder(str(image_encoder_folder(kind)), 32, "auto", pretrained=True)
    for layer in [None] if kind in NOT_IN_PARTS else layers_of(encoder):
        checked(encoder, images(32), layer)


@pytest.mark.parametrize("kind", sorted(READS_PADDING))
def test_an_encoder_that_reads_padding_is_not_split(kind: str, tmp_path: Path) -> None:
    encoder = build_text_encoder(str(write_text_encoder(kind, captions(), tmp_path)), None, "auto", pretrained=True)
    with pytest.raises(CannotSplitError, match="padding"):
        FrozenPart(encoder, None, "pooled", exact=True).check()


def test_an_encoder_whose_layers_share_weights_is_not_split(tmp_path: Path) -> None:
    encoder = build_text_encoder(str(write_text_encoder("albert", captions(), tmp_path)), None, "auto", pretrained=True)
    with pytest.raises(CannotSplitError):
        FrozenPart(encoder, 2, "pooled", exact=True).check()


def test_gradients_reach_the_trained_layers_alone(image_encoder_folder: Any) -> None:
    encoder = build_image_encoder(str(image_encoder_folder("timm_vit")), 32, "auto", pretrained=True)
    part = FrozenPart(encoder, 2, "pooled", exact=True)
    part.check()
    continued(part, images(32)).pooled.sum().backward()
    layers = encoder.layers()
    reached = {layers[name] for name, parameter in encoder.named_parameters() if parameter.grad is not None}
    assert reached == {2, 3}
