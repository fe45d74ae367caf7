"""Encoders against the libraries that they come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from tiny_encoders import IMAGE_KINDS, MAX_LENGTH, MEAN, STD, TEXT_KINDS

from mmft.errors import UserError
from mmft.models.image_encoder import build_image_encoder
from mmft.models.text_encoder import build_text_encoder

B = 3


def images(size: int) -> torch.Tensor:
    return torch.randint(0, 256, (B, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def normalised(pixel_values: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (MEAN, STD))
    return (pixel_values.float() / 255 - mean) / std


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_image_tokens_are_the_librarys_own(kind: str, image_encoder_folder: Any) -> None:
    folder = image_encoder_folder(kind)
    encoder = build_image_encoder(str(folder), 32, "auto", pretrained=True).eval()
    with torch.no_grad():
        got = encoder(images(32))
        if kind.startswith("timm"):
            plain = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
            expected, pooled = plain.forward_features(normalised(images(32))), plain(normalised(images(32)))
            assert torch.allclose(got.pooled, pooled, atol=1e-5)
            if kind == "timm_convnext":
                expected = plain.head.norm(expected)  # the final norm is applied, which it has after pooling
        else:
            plain = transformers.AutoModel.from_pretrained(folder).eval()
            out = plain(pixel_values=normalised(images(32)))
            expected = out.last_hidden_state
            if kind == "hf_clip":
                assert torch.allclose(got.pooled, out.pooler_output, atol=1e-5)  # the final norm is applied
                expected = plain.post_layernorm(expected)
    tokens = expected.flatten(2).transpose(1, 2) if expected.ndim == 4 else expected
    assert torch.allclose(got.tokens, tokens, atol=1e-5)
    assert got.mask.shape == got.tokens.shape[:2]
    assert got.mask.all()
    assert got.pooled.shape == (B, encoder.pooled_width)


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_any_image_size(kind: str, image_encoder_folder: Any) -> None:
    encoder = build_image_encoder(str(image_encoder_folder(kind)), 48, "auto", pretrained=True).eval()
    with torch.no_grad():
        assert encoder(images(48)).pooled.shape == (B, encoder.pooled_width)


@pytest.mark.parametrize("pool", ["cls", "mean", "cls_mean"])
@pytest.mark.parametrize("kind", ["timm_vit", "hf_dinov2"])
def test_pools_of_a_vit(kind: str, pool: str, image_encoder_folder: Any) -> None:
    encoder = build_image_encoder(str(image_encoder_folder(kind)), 32, pool, pretrained=True).eval()
    with torch.no_grad():
        got = encoder(images(32))
    cls, mean = got.tokens[:, 0], got.tokens[:, 1:].mean(1)
    expected = {"cls": cls, "mean": mean, "cls_mean": torch.cat([cls, mean], -1)}[pool]
    assert torch.allclose(got.pooled, expected, atol=1e-6)


def test_a_convnet_has_no_class_token(image_encoder_folder: Any) -> None:
    with pytest.raises(UserError, match=r"model.image_encoder.pool=cls: .* no class token"):
        build_image_encoder(str(image_encoder_folder("timm_resnet")), 32, "cls", pretrained=True)


@pytest.mark.parametrize(
    ("kind", "pool"),
    [(kind, pool) for kind in TEXT_KINDS for pool in ("cls", "mean") if (kind, pool) != ("clip", "cls")],
)
def test_text_is_the_librarys_own_and_padding_changes_nothing(kind: str, pool: str, text_encoder_folder: Any) -> None:
    folder = text_encoder_folder(kind)
    encoder = build_text_encoder(str(folder), 48, pool, pretrained=True).eval()
    words = encoder.tokenizer(
        ["a painting in red", "blue", "something green here and there"], padding=True, return_tensors="pt"
    )
    ids, mask = words["input_ids"], words["attention_mask"].bool()
    pad = encoder.tokenizer.pad_token_id or 0
    longer = torch.cat([ids, torch.full((B, 24), pad)], 1), torch.cat([mask, torch.zeros(B, 24, dtype=torch.bool)], 1)
    plain = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        got, padded = encoder(ids, mask), encoder(*longer)
        expected = plain(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    assert torch.allclose(got.tokens[mask], expected[mask], atol=1e-5)
    assert torch.allclose(got.pooled, padded.pooled, atol=1e-6)
    if pool == "mean":
        assert torch.allclose(
            got.pooled, torch.stack([t[m].mean(0) for t, m in zip(expected, mask, strict=True)]), atol=1e-5
        )


@pytest.mark.parametrize(
    ("kind", "blocks"), [("timm_vit", 2), ("timm_convnext", 4), ("timm_resnet", 4), ("hf_dinov2", 2), ("hf_siglip", 2)]
)
def test_layers_of_image_encoders(kind: str, blocks: int, image_encoder_folder: Any) -> None:
    layers = build_image_encoder(str(image_encoder_folder(kind)), 32, "auto", pretrained=True).layers()
    assert set(layers.values()) <= set(range(blocks + 2))
    assert set(range(1, blocks + 1)) <= set(layers.values())
    first = {n for n, layer in layers.items() if layer == 0}
    assert all(
        any(w in n for w in ("cls_token", "pos", "patch", "stem", "conv1", "bn1", "embeddings")) for n in first
    ), first
    assert all("norm" in n.lower() for n, layer in layers.items() if layer == blocks + 1)


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_layers_of_text_encoders(kind: str, text_encoder_folder: Any) -> None:
    layers = build_text_encoder(str(text_encoder_folder(kind)), 48, "auto", pretrained=True).layers()
    assert {1, 2} <= set(layers.values()) <= {0, 1, 2, 3}
    assert all("embeddings" in n for n, layer in layers.items() if layer == 0)
    if kind == "deberta_v2":
        assert layers["backbone.encoder.rel_embeddings.weight"] == 0  # every block uses it


def test_every_trained_parameter_gets_a_gradient(image_encoder_folder: Any, text_encoder_folder: Any) -> None:
    """Nothing that takes no part in the output (poolers, mask tokens, other heads) is left in an encoder."""
    for kind in IMAGE_KINDS:
        encoder = build_image_encoder(str(image_encoder_folder(kind)), 32, "mean", pretrained=True)
        encoder(images(32)).tokens.square().sum().backward()
        _expect_gradients(encoder, kind)
    for kind in TEXT_KINDS:
        text = build_text_encoder(str(text_encoder_folder(kind)), 48, "mean", pretrained=True)
        ids = torch.randint(5, 20, (2, 8))
        text(ids, torch.ones_like(ids, dtype=torch.bool)).tokens.square().sum().backward()
        _expect_gradients(text, kind)


def _expect_gradients(encoder: Any, kind: str) -> None:
    without = [n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, kind


def test_random_weights_on_request(image_encoder_folder: Any) -> None:
    folder = str(image_encoder_folder("timm_vit"))
    a, b = (build_image_encoder(folder, 32, "auto", pretrained=p).state_dict() for p in (True, False))
    assert not torch.equal(a["backbone.blocks.0.attn.qkv.weight"], b["backbone.blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_folder_that_is_no_encoder(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"model.image_encoder.name: .*config.json"):
        build_image_encoder(str(tmp_path), 32, "auto", pretrained=True)


@pytest.mark.parametrize(
    "name", ["timm/vit_small_patch14_dinov2.lvd142m", "hf/owner/name", "owner/name", "bert-base-uncased"]
)
def test_a_hub_name_without_a_network_is_a_clear_error(name: str) -> None:
    with pytest.raises(UserError, match=r"model.text_encoder.name: .* is not a folder here, and the hub did not"):
        build_text_encoder(name, 32, "auto", pretrained=True)


def test_hub_names() -> None:
    from mmft.models.loading.source import hub_repository

    key = "model.text_encoder.name"
    assert hub_repository("timm/vit_small_patch14_dinov2.lvd142m", key) == "timm/vit_small_patch14_dinov2.lvd142m"
    assert hub_repository("vit_small_patch14_dinov2", key) == "timm/vit_small_patch14_dinov2.lvd142m"
    assert hub_repository("hf/google/siglip", key) == "google/siglip"
    assert hub_repository("bert-base-uncased", key) == "bert-base-uncased"


def test_a_weight_that_the_file_lacks_is_an_error(text_encoder_folder: Any, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(text_encoder_folder("bert"), tmp_path / "bert")
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if "layer.1" in name))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="1 weights are not in its files"):
        build_text_encoder(str(folder), 48, "auto", pretrained=True)


def test_a_weight_that_a_timm_file_lacks_is_an_error(image_encoder_folder: Any, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(image_encoder_folder("timm_vit"), tmp_path / "vit")
    config = json.loads((folder / "config.json").read_text())
    config["num_classes"] = 10  # with a classifier, timm loads what it finds
    config["pretrained_cfg"] |= {"num_classes": 10, "classifier": "head"}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    build_image_encoder(str(folder), 32, "auto", pretrained=True)
    del weights["blocks.1.attn.qkv.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="1 weights are not in its files, first blocks.1.attn.qkv.weight"):
        build_image_encoder(str(folder), 32, "auto", pretrained=True)


def test_max_length_beyond_the_positions(text_encoder_folder: Any) -> None:
    with pytest.raises(UserError, match=r"model.text_encoder.max_length=9999: the maximum of this encoder is \d+"):
        build_text_encoder(str(text_encoder_folder("bert")), 9999, "auto", pretrained=True)


@pytest.mark.parametrize("pool", ["cls", "cls_mean"])
def test_a_causal_models_first_token_says_nothing(pool: str, text_encoder_folder: Any) -> None:
    with pytest.raises(UserError, match=rf"model.text_encoder.pool={pool}: .* Type model.text_encoder.pool=last"):
        build_text_encoder(str(text_encoder_folder("clip")), 32, pool, pretrained=True)


def test_the_tokenizer_never_pads_beyond_the_positions(text_encoder_folder: Any) -> None:
    encoder = build_text_encoder(str(text_encoder_folder("roberta")), 32, "auto", pretrained=True)
    assert encoder.positions == MAX_LENGTH + 2 - encoder.tokenizer.pad_token_id - 1
    assert encoder.tokenizer.model_max_length == min(MAX_LENGTH, encoder.positions)
