"""timm's vision transformers as classes of transformers: the same tokens in front of the final norm."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from mmft.models.image_encoder import build_image_encoder
from mmft.run.export.vit_from_timm import as_transformers

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2, "num_classes": 0}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "dinov2": ("Dinov2Model", {"init_values": 0.5}),
    "clip": ("CLIPVisionModel", {"pre_norm": True, "act_layer": "quick_gelu"}),
    "siglip": ("SiglipVisionModel", {"class_token": False, "global_pool": "avg", "act_layer": "gelu_tanh"}),
    "vit": ("ViTModel", {}),
}


def encoder(**options: Any) -> Any:
    torch.manual_seed(0)
    backbone = VisionTransformer(**(SMALL | options)).eval()
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return SimpleNamespace(backbone=backbone, image_size=32)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_hidden_states(kind: str) -> None:
    name, options = KINDS[kind]
    ours = encoder(**options)
    theirs = as_transformers(ours).eval()
    assert type(theirs).__name__ == name
    pixels = torch.randn(2, 3, 32, 32)
    ours.backbone.norm = torch.nn.Identity()
    with torch.no_grad():
        expected = ours.backbone.forward_features(pixels)
        found = theirs(pixel_values=pixels, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reg_tokens": 2}, "transformers' ViT has no reg_token of timm"),
        ({"act_layer": "relu"}, "transformers' encoders have no ReLU"),
        ({"qk_norm": True}, "transformers' ViT has no attn.q_norm"),
    ],
)
def test_what_transformers_does_not_have(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_transformers(encoder(**options))


def test_a_convnet_is_none() -> None:
    with pytest.raises(ValueError, match="transformers has no ResNet of timm"):
        as_transformers(SimpleNamespace(backbone=timm.create_model("resnet18"), image_size=32))


@pytest.mark.shared
def test_a_real_one_is_what_transformers_has(shared: Any) -> None:
    folders = [shared / "encoders" / name for name in ("dinov2-small-timm", "dinov2-small")]
    one, other = (
        build_image_encoder(str(folder), 518, "auto", pretrained=True, feature_layer=-2) for folder in folders
    )
    pixels = torch.randint(0, 256, (1, 3, 518, 518), dtype=torch.uint8)
    with torch.no_grad():
        expected = other(pixels).tokens
        found = as_transformers(one.eval())(pixel_values=one.normalise(pixels), output_hidden_states=True)
    torch.testing.assert_close(found.hidden_states[-1], expected, atol=1e-3, rtol=1e-3)
