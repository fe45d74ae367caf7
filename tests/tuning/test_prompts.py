"""Prompt tuning, shallow and deep, in transformers of images and of texts."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from torch.nn import functional
from tuned_encoders import Fit, batch, check_padding, check_training, features, randomise

from mmft.errors import UserError
from mmft.models.image_encoder import build_image_encoder
from mmft.models.layers import mix_in
from mmft.models.recompute import Recomputed
from mmft.models.text_encoder import build_text_encoder, try_text
from mmft.tuning import masks
from mmft.tuning.methods.prompts import PromptTuning

IMAGES = ("timm_vit", "hf_dinov2", "hf_siglip", "hf_clip")
TEXTS = ("bert", "roberta", "deberta_v2", "modernbert", "clip")
P = 4
SHALLOW, DEEP = ("deep=false", f"length={P}"), ("deep=true", f"length={P}")


@pytest.mark.parametrize("keys", [SHALLOW, DEEP], ids=["shallow", "deep"])
@pytest.mark.parametrize("kind", [*IMAGES, *TEXTS])
def test_it_learns(kind: str, keys: tuple[str, str], fit: Fit) -> None:
    fitted = fit(kind, "prompt", *keys)
    encoder, method = fitted
    layers, blocks = encoder.layers(), encoder.top_layer - 1
    assert {layers[name] for name in method.trained(encoder)} == set(range(1, blocks + 1 if keys is DEEP else 2))
    assert all(encoder.get_parameter(name).shape == (P, encoder.width) for name in method.trained(encoder))
    check_training(fitted, kind, lr=1e-1)


@pytest.mark.parametrize("kind", [*IMAGES, *TEXTS])
def test_tokens_and_mask_are_those_of_the_row(kind: str, fit: Fit) -> None:
    with torch.no_grad():
        plain = fit(kind, "freeze")[0].eval()(*batch(kind))
        for keys in (SHALLOW, DEEP):
            prompted = fit(kind, "prompt", *keys)[0].eval()(*batch(kind))
            assert prompted.tokens.shape == plain.tokens.shape
            assert torch.equal(prompted.mask, plain.mask)
            assert not torch.allclose(prompted.tokens, plain.tokens, atol=1e-4)


@pytest.mark.parametrize("keys", [SHALLOW, DEEP], ids=["shallow", "deep"])
@pytest.mark.parametrize("kind", [kind for kind in (*IMAGES, *TEXTS) if kind != "deberta_v2"])
def test_nothing_but_their_keys_moves_the_others(
    kind: str, keys: tuple[str, str], fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where attention leaves the prompts' keys out, every token is as without them: positions and masks too."""
    before = features(fit(kind, "freeze")[0], kind)
    fitted = fit(kind, "prompt", *keys)
    randomise(fitted)
    monkeypatch.setattr(functional, "scaled_dot_product_attention", _without_prompts)
    assert torch.allclose(features(fitted[0], kind), before, atol=1e-5)


_ATTENTION = functional.scaled_dot_product_attention


def _without_prompts(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **more: Any) -> Tensor:
    if more.pop("is_causal", False):
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    attn_mask = None if attn_mask is None else attn_mask[..., P:]
    return _ATTENTION(query, key[..., P:, :], value[..., P:, :], attn_mask=attn_mask, **more)


@pytest.mark.parametrize("keys", [SHALLOW, DEEP], ids=["shallow", "deep"])
@pytest.mark.parametrize("kind", TEXTS)
def test_nor_does_a_mask_that_hides_them(
    kind: str, keys: tuple[str, str], fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, mask = batch(kind)
    mask[0, 5:] = False  # or there is no mask
    plain, (encoder, _) = fit(kind, "freeze")[0].eval(), fit(kind, "prompt", *keys)
    encoder.eval()
    monkeypatch.setattr(masks, "_seen", masks._unseen)
    with torch.no_grad():
        assert torch.allclose(encoder(ids, mask).pooled, plain(ids, mask).pooled, atol=1e-5)


def test_in_front_of_the_first_block_or_of_every_one(fit: Fit) -> None:
    """A ViT run by hand."""
    pixels = batch("timm_vit")[0]
    for deep, keys in ((False, SHALLOW), (True, DEEP)):
        fitted = fit("timm_vit", "prompt", *keys)
        randomise(fitted)
        encoder: Any = fitted[0].eval()
        plain: Any = fit("timm_vit", "freeze")[0].eval().backbone
        with torch.no_grad():
            tokens = plain._pos_embed(plain.patch_embed(encoder.normalise(pixels)))
            for number, block in enumerate(plain.blocks):
                if deep or number == 0:
                    prompts = encoder.backbone.blocks[number].prompts.tokens.expand(len(tokens), -1, -1)
                    tokens = torch.cat([prompts, tokens[:, P if number else 0 :]], dim=1)
                tokens = block(tokens)
            assert torch.allclose(encoder(pixels).tokens, plain.norm(tokens)[:, P:], atol=1e-5)


@pytest.mark.parametrize("keys", [SHALLOW, DEEP], ids=["shallow", "deep"])
@pytest.mark.parametrize("kind", TEXTS)
def test_padding(kind: str, keys: tuple[str, str], fit: Fit) -> None:
    fitted = fit(kind, "prompt", *keys)
    randomise(fitted)
    check_padding(fitted, kind)


@pytest.mark.parametrize("kind", TEXTS)
def test_they_take_no_positions_and_look_into_no_future(kind: str, fit: Fit) -> None:
    encoder: Any = fit(kind, "prompt", "length=20", "deep=false")[0].eval()
    ids = torch.randint(5, 20, (2, encoder.positions))
    with torch.no_grad():
        assert encoder(ids, torch.ones_like(ids, dtype=torch.bool)).tokens.shape[1] == encoder.positions
    assert try_text(encoder.backbone, kind).causal == (kind == "clip")


def test_masks_of_every_sort() -> None:
    """1: is attended to. Two prompts in front of two tokens and one that is padding."""
    seen = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 0]]).view(1, 1, 3, 3)
    wide = torch.tensor([[1, 1, 1, 1, 0]] * 5)
    causal = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0]])
    low = torch.finfo(torch.float32).min
    for is_causal_one, expected in ((False, wide), (True, causal)):
        assert torch.equal(masks.with_tokens(seen, 2, is_causal_one)[0, 0], expected)
        assert torch.equal(masks.with_tokens(seen.bool(), 2, is_causal_one)[0, 0], expected.bool())
        added = torch.where(seen.bool(), 0.0, low)
        assert torch.equal(masks.with_tokens(added, 2, is_causal_one)[0, 0], torch.where(expected.bool(), 0.0, low))
    assert torch.equal(masks.with_tokens(seen[:, :, :1], 2, causal=False)[0, 0], wide[:1])
    assert torch.equal(masks.causal_with_keys(2, 1, seen.device), torch.tensor([[1, 1, 0], [1, 1, 1]]).bool())


@pytest.mark.parametrize("keys", [SHALLOW, DEEP], ids=["shallow", "deep"])
@pytest.mark.parametrize("kind", ["timm_vit", "modernbert"])
def test_copies_and_blocks_that_are_computed_twice(kind: str, keys: tuple[str, str], fit: Fit) -> None:
    fitted = fit(kind, "prompt", *keys)
    randomise(fitted)
    encoder, method = fitted
    before, copied = features(encoder, kind), copy.deepcopy(encoder)
    stem = "backbone.blocks" if kind == "timm_vit" else "backbone.layers"
    for block in encoder.get_submodule(stem).children():
        mix_in(block, Recomputed)
    for part in (encoder, copied):
        part(*batch(kind)).pooled.square().sum().backward()
    for name in method.trained(encoder):
        assert torch.equal(encoder.get_parameter(name).grad, copied.get_parameter(name).grad)  # type: ignore[arg-type]
        nn.init.zeros_(encoder.get_parameter(name))
    assert torch.equal(features(copied, kind), before)


def test_a_run_comes_back(check_saved: Callable[..., None]) -> None:
    check_saved("tune=prompt", "tune.length=3", "tune.text_encoder.deep=false")


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_rotary_positions_of_patches(library: str, deep: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They rotate patches alone, behind class tokens and prompts."""
    if library == "timm":
        size = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 32}
        pretrained = {"input_size": [3, 32, 32]}
        config = {"architecture": "eva02_tiny_patch14_224", "model_args": size, "pretrained_cfg": pretrained}
        (tmp_path / "config.json").write_text(json.dumps(config))
    else:
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(tmp_path)
    encoder = build_image_encoder(str(tmp_path), 32, "auto", pretrained=library == "transformers")
    before = features(encoder, "timm_vit")
    PromptTuning("tune.image_encoder", P, deep).apply(encoder)
    assert not torch.equal(features(encoder, "timm_vit"), before)
    monkeypatch.setattr(functional, "scaled_dot_product_attention", _without_prompts)
    assert torch.allclose(features(encoder, "timm_vit"), before, atol=1e-5)


def test_a_convolution_between_blocks(tmp_path: Path, text_encoder_folder: Any) -> None:
    """That of the largest DeBERTa-v2 goes by the number of tokens."""
    folder = shutil.copytree(text_encoder_folder("deberta_v2"), tmp_path / "encoder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"conv_kernel_size": 3}))
    encoder = build_text_encoder(str(folder), None, "auto", pretrained=False)
    with pytest.raises(UserError, match=r"tune.text_encoder.deep: .* has a convolution .* Type deep=true"):
        PromptTuning("tune.text_encoder", P, deep=False).apply(encoder)
    PromptTuning("tune.text_encoder", P, deep=True).apply(encoder)
    assert encoder(*batch("bert")).tokens.shape == (6, 8, 32)


def test_what_does_not_fit(fit: Fit) -> None:
    assert PromptTuning("tune.text_encoder").length == 10
    for kind in ("timm_resnet", "timm_convnext"):
        with pytest.raises(UserError, match=r"tune.image_encoder: prompt does not fit .* Type tune/image_encoder=ad"):
            fit(kind, "prompt")
    encoder, method = fit("bert", "prompt")
    with pytest.raises(UserError, match=r"tune.text_encoder: .* has no weights to merge .* mmft predict run=RUN"):
        method.merge(encoder)
