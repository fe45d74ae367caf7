"""`model.image_encoder.feature_layer`: tokens of a block, in front of the final norm."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mostly_slow import mostly_slow
from tiny_encoders import IMAGE_KINDS
from tiny_transformers import IMAGE_SIZE, IMAGES, write_image_encoder

from mmft.errors import UserError
from mmft.models.feature_layer import with_end
from mmft.models.frozen_part import FrozenPart
from mmft.models.image_encoder import ImageEncoder, build_image_encoder

VITS = [kind for kind in IMAGE_KINDS if kind == "timm_vit" or kind.startswith("hf_")]
PIXELS = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def ended(folder: Any, layer: int | None, pool: str = "auto") -> ImageEncoder:
    return build_image_encoder(str(folder), 32, pool, pretrained=True, feature_layer=layer).eval()


def of_library(whole: ImageEncoder, layer: int) -> torch.Tensor:
    """The library's own output of a block, counted backwards as in its list of hidden states."""
    backbone: Any = whole.backbone
    pixels = whole.normalise(PIXELS)
    if hasattr(backbone, "config"):
        found: torch.Tensor = backbone(pixel_values=pixels, output_hidden_states=True).hidden_states[layer]
        return found
    count = len(backbone.blocks)
    ((patches, prefix),) = backbone.forward_intermediates(
        pixels,
        indices=[count + layer],
        norm=False,
        return_prefix_tokens=True,
        output_fmt="NLC",
        intermediates_only=True,
    )
    return torch.cat([prefix, patches], dim=1)


@pytest.mark.parametrize("layer", [-1, -2])
@pytest.mark.parametrize("kind", VITS)
def test_tokens_are_the_librarys_hidden_state(kind: str, layer: int, image_encoder_folder: Any) -> None:
    folder = image_encoder_folder(kind)
    whole, part = ended(folder, None), ended(folder, layer)
    with torch.no_grad():
        expected, encoded = of_library(whole, layer), part(PIXELS)
        assert not torch.allclose(encoded.tokens, whole(PIXELS).tokens, atol=1e-3)
        from_below = ended(folder, 3 + layer)(PIXELS)  # of two blocks
    torch.testing.assert_close(encoded.tokens, expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(from_below.tokens, encoded.tokens)
    assert part.top_layer == 4 + layer
    assert max(part.layers().values()) == 3 + layer


@pytest.mark.parametrize("pool", ["mean", "cls_mean"])
def test_pooled_features_are_of_these_tokens(pool: str, image_encoder_folder: Any) -> None:
    encoder = ended(image_encoder_folder("hf_dinov2"), 1, pool)
    with torch.no_grad():
        encoded = encoder(PIXELS)
    expected = encoded.tokens[:, 1:].mean(1)
    if pool == "cls_mean":
        expected = torch.cat([encoded.tokens[:, 0], expected], dim=1)
    torch.testing.assert_close(encoded.pooled, expected)


@pytest.mark.parametrize("kind", VITS)
def test_every_parameter_that_is_left_gets_a_gradient(kind: str, image_encoder_folder: Any) -> None:
    encoder = ended(image_encoder_folder(kind), -2)
    encoder(PIXELS).tokens.square().sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("layer", [None, 2])
@pytest.mark.parametrize("kind", VITS)
def test_its_frozen_part_is_kept_like_any_other(kind: str, layer: int | None, image_encoder_folder: Any) -> None:
    encoder = ended(image_encoder_folder(kind), -1)
    part = FrozenPart(encoder, layer, "tokens")
    part.check()
    with torch.no_grad():
        expected, found = encoder(PIXELS), part.encoded(None, part.complete((PIXELS,), None))
    torch.testing.assert_close(found.tokens, expected.tokens)


@pytest.mark.parametrize("kind", ["timm_vit", "hf_clip"])
def test_what_came_after_the_blocks_is_there_for_an_export(kind: str, image_encoder_folder: Any) -> None:
    whole, part = ended(image_encoder_folder(kind), None), ended(image_encoder_folder(kind), -1)
    before = copy.deepcopy(part.state_dict())
    with with_end(part):
        there = part.state_dict()
        assert there.keys() == whole.state_dict().keys()
        assert all(torch.equal(there[name], value) for name, value in whole.state_dict().items())
    assert part.state_dict().keys() == before.keys() < there.keys()


@pytest.mark.parametrize("kind", mostly_slow(IMAGES, "dinov2", "resnet"))
def test_any_encoder_ends_at_a_block_or_is_refused(kind: str, tmp_path: Any) -> None:
    folder = write_image_encoder(kind, tmp_path)
    reasons = []
    try:
        encoder = build_image_encoder(str(folder), IMAGE_SIZE, "auto", pretrained=True, feature_layer=1).eval()
    except UserError as error:
        reasons.append(str(error))
    if reasons:
        assert kind not in ("dinov2", "clip", "siglip", "vit")
        assert "feature_layer=1" in reasons[0]
        return
    with torch.no_grad():
        tokens = encoder(torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)).tokens
    assert tokens.shape[2] == encoder.widths.tokens


@pytest.mark.parametrize("layer", [3, -3])
def test_a_block_that_is_not_there(layer: int, image_encoder_folder: Any) -> None:
    with pytest.raises(UserError, match=rf"feature_layer={layer}: .* has 2 blocks\. Type a number from 1 to 2, or"):
        ended(image_encoder_folder("hf_clip"), layer)


@pytest.mark.parametrize("kind", ["timm_convnext", "timm_resnet"])
def test_a_convnet_has_no_tokens_to_end_at(kind: str, image_encoder_folder: Any) -> None:
    with pytest.raises(UserError, match=r"feature_layer=1: .*Leave it out"):
        ended(image_encoder_folder(kind), 1)
