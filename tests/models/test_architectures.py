"""Many architectures with random weights: widths, layers and pools are right in all of them.

The whole table is slow; a handful of it runs always.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers as hf
from tiny_transformers import IMAGES, REFUSED
from torch import nn

from mmft.errors import UserError
from mmft.models.image_encoder import ImageEncoder, build_image_encoder
from mmft.models.layers import blocks, layer_of
from mmft.models.text_encoder import build_text_encoder

B = 2

# Architecture: its own size, and a second one where it takes any.
FAST: dict[str, tuple[int, int | None]] = {
    "mobilenetv3_small_050": (64, 96),
    "regnetx_002": (64, 96),
    "resnet10t": (64, 96),
    "mixer_s32_224": (224, None),
    "mvitv2_tiny": (64, 96),
}
SLOW: dict[str, tuple[int, int | None]] = {
    "mobilenetv4_conv_small_035": (64, 96),
    "ghostnet_050": (64, 96),
    "efficientvit_b0": (64, 96),
    "efficientnet_b0": (64, 96),
    "vgg11": (64, 96),
    "mambaout_femto": (64, 96),
    "xception41": (64, 96),
    "hrnet_w18_small": (64, 96),
    "twins_pcpvt_small": (224, 64),
    "densenet121": (64, 96),
    "inception_v3": (128, 160),
    "inception_resnet_v2": (128, 160),
    "gmlp_ti16_224": (224, None),
    "hiera_tiny_224": (224, None),
    "levit_128s": (224, 256),
    "volo_d1_224": (224, None),
    "cait_xxs24_224": (224, 64),
    "xcit_nano_12_p16_224": (224, 64),
    "pit_ti_224": (224, 64),
    "swin_tiny_patch4_window7_224": (224, 64),
    "nfnet_l0": (64, 96),
    "repvgg_a0": (64, 96),
    "visformer_tiny": (224, None),
    "deit_tiny_distilled_patch16_224": (224, 64),
    "convmixer_768_32": (64, 96),
    "nasnetalarge": (128, 160),
    "dla34": (64, 96),
    "maxvit_pico_rw_256": (256, None),
    "hgnet_tiny": (64, 96),
    "dpn68": (64, 96),
}
TABLE = [pytest.param(name, id=name) for name in FAST] + [
    pytest.param(name, id=name, marks=pytest.mark.slow) for name in SLOW
]


@pytest.fixture
def timm_encoder(tmp_path: Path) -> Any:
    """`timm_encoder(architecture, size, pool="auto")`: one with random weights."""

    def build(architecture: str, size: int, pool: str = "auto") -> ImageEncoder:
        own = timm.get_pretrained_cfg(architecture)
        assert own is not None
        config = {"architecture": architecture, "pretrained_cfg": {"input_size": own.input_size}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return build_image_encoder(str(tmp_path), size, pool, pretrained=False).eval()

    return build


def images(size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (B, 3, size, size), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("architecture", TABLE)
def test_widths_and_layers(architecture: str, timm_encoder: Any) -> None:
    size, second = (FAST | SLOW)[architecture]
    for side in (size, second):
        if side is not None:
            encoder = timm_encoder(architecture, side)
            _check_widths(encoder, side)
    _check_layers(encoder, side or size)


def _check_widths(encoder: ImageEncoder, size: int) -> None:
    with torch.no_grad():
        out = encoder(images(size))
    assert out.tokens.shape[::2] == (B, encoder.width)
    assert out.mask.shape == out.tokens.shape[:2]
    assert out.pooled.shape == (B, encoder.pooled_width)


def _check_layers(encoder: ImageEncoder, size: int) -> None:
    layers, found = layer_of(encoder.backbone), blocks(encoder.backbone)
    assert set(layers) == {name for name, _ in encoder.backbone.named_parameters()}
    assert set(range(1, len(found) + 1)) <= set(layers.values()) <= set(range(len(found) + 2))
    assert len(found) >= 2
    modules = [module for _, module in encoder.backbone.named_modules()]
    assert all(any(True for m in (modules[place] for place in block) for _ in m.parameters()) for block in found)
    order = [layers[name] for name in _parameters_in_the_order_of_use(encoder, size)]
    assert order == sorted(order)


# What each stage uses of what stands outside the blocks: no order tells which layer that belongs to.
USED_BY_STAGES = ("patch_embeds", "pos_block", "pos_embed", "cls_token")


def _parameters_in_the_order_of_use(encoder: ImageEncoder, size: int) -> list[str]:
    names: list[str] = []

    def note(name: str) -> Any:
        return lambda module, _: names.extend(f"{name}.{n}" for n, _ in module.named_parameters(recurse=False))

    hooks = [module.register_forward_pre_hook(note(name)) for name, module in encoder.backbone.named_modules() if name]
    with torch.no_grad():
        encoder(images(size))
    for hook in hooks:
        hook.remove()
    return [name for name in dict.fromkeys(names) if not name.startswith(USED_BY_STAGES)]


def test_pools_of_models_that_are_no_plain_vit(timm_encoder: Any) -> None:
    encoder = timm_encoder("cait_xxs24_224", 64, "cls_mean")
    with torch.no_grad():
        out = encoder(images(64))
    assert out.pooled.shape == (B, encoder.pooled_width) == (B, 2 * encoder.width)
    assert torch.equal(out.pooled[:, : encoder.width], out.tokens[:, 0])
    with pytest.raises(UserError, match=r"pool=cls_mean: this encoder has no class token. Type"):
        timm_encoder("mixer_s32_224", 224, "cls_mean")
    with pytest.raises(UserError, match=r"pool=mean: this encoder returns only a class token"):
        timm_encoder("pit_ti_224", 224, "mean")
    with pytest.raises(UserError, match=r"image_size=240: it returns more than one set of tokens"):
        timm_encoder("crossvit_tiny_240", 240)


def test_a_size_that_is_no_number_of_patches(timm_encoder: Any, image_encoder_folder: Any) -> None:
    with pytest.raises(UserError, match=r"image_size=60 is not a multiple of .* patch size of 16. Type 48 or 64"):
        timm_encoder("vit_tiny_patch16_224", 60)
    with pytest.raises(UserError, match=r"image_size=44 is not a multiple of .* patch size of 8. Type 40 or 48"):
        build_image_encoder(str(image_encoder_folder("hf_dinov2")), 44, "auto", pretrained=True)


@pytest.mark.slow
def test_cls_mean_of_volo(timm_encoder: Any) -> None:
    encoder = timm_encoder("volo_d1_224", 224, "cls_mean")
    _check_widths(encoder, 224)
    assert encoder.pooled_width == 2 * encoder.width


def test_layers_of_a_resnet_and_a_densenet() -> None:
    resnet = layer_of(timm.create_model("resnet10t", num_classes=0))
    assert {layer for name, layer in resnet.items() if name.startswith(("conv1", "bn1"))} == {0}
    assert {name.partition(".")[0]: n for name, n in resnet.items() if n} == {f"layer{n}": n for n in range(1, 5)}
    densenet = layer_of(timm.create_model("densenet121", num_classes=0))
    assert densenet["features.conv0.weight"] == densenet["features.norm0.weight"] == 0
    assert (
        densenet["features.transition1.conv.weight"] == densenet["features.denseblock2.denselayer1.conv1.weight"] == 2
    )


def test_layers_do_not_depend_on_the_hash_seed() -> None:
    """What timm names stands under several parents (blocks.0.stack.act3, blocks.12); one list has them all."""
    layers = layer_of(timm.create_model("xception41", num_classes=0))
    numbers = {name.split(".")[1]: n for name, n in layers.items() if name.startswith("blocks.")}
    assert numbers == {str(n): n + 1 for n in range(13)}
    assert {n for name, n in layers.items() if name.startswith("stem.")} == {0}


# Of the architectures in tiny_transformers: whether its own pooler is our mean.
TRANSFORMERS = {
    "resnet": True,
    "regnet": True,
    "convnext": True,
    "efficientnet": True,
    "mobilenet_v2": True,
    "focalnet": True,
    "swin": True,
    "hiera": True,
    "beit": True,
    "data2vec": True,
    "mae": False,
    "deit": False,
}


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_transformers_models(kind: str, tmp_path: Path) -> None:
    options = {"add_pooling_layer": True} if kind == "data2vec" else {}
    plain = hf.AutoModel.from_config(IMAGES[kind](), **options).eval()
    for norm in [m for m in plain.modules() if isinstance(m, nn.LayerNorm)]:
        nn.init.normal_(norm.weight, 1, 0.1)
    plain.save_pretrained(tmp_path)
    encoder = build_image_encoder(str(tmp_path), 64, "mean", pretrained=True).eval()
    _check_widths(encoder, 64)
    _check_layers(encoder, 64)
    with torch.no_grad():
        a, b = encoder(images(64)), encoder(images(64))
        assert torch.equal(a.tokens, b.tokens)
        if TRANSFORMERS[kind]:
            options = {"interpolate_pos_encoding": True} if kind in ("beit", "data2vec", "hiera") else {}
            own = plain(pixel_values=encoder.normalise(images(64)), **options).pooler_output
            assert torch.allclose(a.pooled, own.flatten(1), atol=1e-5)
    if kind == "mae":
        assert a.tokens.shape[1] == 1 + 64  # nothing is hidden
    if kind == "deit":
        assert encoder.prefix == 2
        assert torch.allclose(a.pooled, a.tokens[:, 2:].mean(1), atol=1e-6)


def test_the_wrong_kind_of_encoder(tmp_path: Path, text_encoder_folder: Any, image_encoder_folder: Any) -> None:
    with pytest.raises(UserError, match=r"model.image_encoder.name=.* BertModel .* model.text_encoder.name"):
        build_image_encoder(str(text_encoder_folder("bert")), 32, "auto", pretrained=True)
    with pytest.raises(UserError, match=r"model.text_encoder.name=.* Dinov2Model .* model.image_encoder.name"):
        build_text_encoder(str(image_encoder_folder("hf_dinov2")), 32, "auto", pretrained=True)
    REFUSED["siglip2"][1]().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"also needs pixel_attention_mask, spatial_shapes"):
        build_image_encoder(str(tmp_path), 32, "auto", pretrained=True)
