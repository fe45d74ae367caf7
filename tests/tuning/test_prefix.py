"""Prefix tuning: learned keys and values in the attention of images and of texts."""

from __future__ import annotations

import copy
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
from mmft.models.text_encoder import try_text
from mmft.tuning import masks
from mmft.tuning.methods.prefix import Prefix, PrefixTuning, _Attending

IMAGES = ("timm_vit", "hf_dinov2", "hf_siglip", "hf_clip")
TEXTS = ("bert", "roberta", "modernbert", "clip")
B, A, N, E, P = 2, 3, 4, 5, 2


@pytest.mark.parametrize("kind", [*IMAGES, *TEXTS])
def test_it_learns(kind: str, fit: Fit) -> None:
    fitted = fit(kind, "prefix", "length=4")
    encoder, method = fitted
    layers, names = encoder.layers(), method.trained(encoder)
    assert sorted(layers[name] for name in names) == [1, 1, 2, 2]  # keys and values
    assert all(encoder.get_parameter(name).shape == (2, 4, 16) for name in names)
    check_training(fitted, kind, lr=1e-1)


@pytest.mark.parametrize("kind", [*IMAGES, *TEXTS])
def test_tokens_and_mask_are_those_of_the_row(kind: str, fit: Fit) -> None:
    with torch.no_grad():
        plain = fit(kind, "freeze")[0].eval()(*batch(kind))
        prefixed = fit(kind, "prefix")[0].eval()(*batch(kind))
    assert prefixed.tokens.shape == plain.tokens.shape
    assert torch.equal(prefixed.mask, plain.mask)
    assert not torch.allclose(prefixed.tokens, plain.tokens, atol=1e-4)


@pytest.mark.parametrize("kind", TEXTS)
def test_a_mask_that_hides_it_leaves_what_was(kind: str, fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions and masks of the tokens are as without it."""
    ids, mask = batch(kind)
    mask[0, 5:] = False  # or there is no mask
    plain, fitted = fit(kind, "freeze")[0].eval(), fit(kind, "prefix")
    randomise(fitted)
    monkeypatch.setattr(masks, "_seen", masks._unseen)
    with torch.no_grad():
        assert torch.allclose(fitted[0].eval()(ids, mask).pooled, plain(ids, mask).pooled, atol=1e-5)


def by_hand(prefix: Prefix, query: Tensor, key: Tensor, value: Tensor, visible: Tensor, bias: Tensor) -> Tensor:
    """Attention in single steps; `visible` and `bias` are (Q, K)."""
    scores = query @ torch.cat([prefix.keys.expand(B, -1, -1, -1), key], dim=2).transpose(-1, -2) / E**0.5
    scores[..., P:] += bias
    scores[..., P:] = scores[..., P:].masked_fill(~visible, -torch.inf)
    return scores.softmax(-1) @ torch.cat([prefix.values.expand(B, -1, -1, -1), value], dim=2)


def test_attention_by_hand() -> None:
    torch.manual_seed(0)
    prefix = Prefix((A, E), (A, E), P)
    for parameter in prefix.parameters():
        nn.init.normal_(parameter)
    query, key, value = torch.randn(3, B, A, N, E)
    every, causal, bias = torch.ones(N, N).bool(), torch.ones(N, N).bool().tril(), torch.randn(N, N)
    nothing = torch.zeros(N, N)
    attend = functional.scaled_dot_product_attention
    with _Attending(prefix):
        found = [
            attend(query, key, value),
            attend(query, key, value, causal),
            attend(query, key, value, attn_mask=bias),
            attend(query, key, value, is_causal=True),
            attend(query=query, key=key, value=value, dropout_p=0.0, scale=E**-0.5),
        ]
    expected = [(every, nothing), (causal, nothing), (every, bias), (causal, nothing), (every, nothing)]
    for one, (visible, more) in zip(found, expected, strict=True):
        assert torch.allclose(one, by_hand(prefix, query, key, value, visible, more), atol=1e-6)
    assert not torch.allclose(attend(query, key, value), found[0], atol=1e-2)  # gone again


@pytest.mark.parametrize("kind", TEXTS)
def test_padding_and_positions(kind: str, fit: Fit) -> None:
    fitted = fit(kind, "prefix", "length=20")
    randomise(fitted)
    check_padding(fitted, kind)
    encoder: Any = fitted[0].eval()
    ids = torch.randint(5, 20, (2, encoder.positions))
    with torch.no_grad():
        assert encoder(ids, torch.ones_like(ids, dtype=torch.bool)).tokens.shape[1] == encoder.positions
    assert try_text(encoder.backbone, kind).causal == (kind == "clip")


@pytest.mark.parametrize("kind", ["timm_vit", "hf_siglip", "bert", "clip"])
def test_copies_and_blocks_that_are_computed_twice(kind: str, fit: Fit) -> None:
    fitted = fit(kind, "prefix", "length=4")
    randomise(fitted)
    encoder, method = fitted
    before, copied = features(encoder, kind), copy.deepcopy(encoder)
    stem = {"timm_vit": "blocks", "bert": "encoder.layer"}.get(kind, "encoder.layers")
    for block in encoder.backbone.get_submodule(stem).children():
        mix_in(block, Recomputed)
    for part in (encoder, copied):
        part(*batch(kind)).pooled.square().sum().backward()
    for name in method.trained(encoder):
        assert torch.equal(encoder.get_parameter(name).grad, copied.get_parameter(name).grad)  # type: ignore[arg-type]
        nn.init.zeros_(encoder.get_parameter(name))
    assert torch.equal(features(copied, kind), before)


def test_a_run_comes_back(check_saved: Callable[..., None]) -> None:
    check_saved("tune=prefix", "tune.length=3")


def test_in_bfloat16(fit: Fit) -> None:
    for kind in ("timm_vit", "bert"):
        encoder, method = fit(kind, "prefix")
        with torch.autocast("cpu", torch.bfloat16):
            pooled = encoder(*batch(kind)).pooled
        pooled.float().square().sum().backward()
        assert all(encoder.get_parameter(name).grad is not None for name in method.trained(encoder))


def test_biases_of_pairs_of_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A BEiT's attention adds a number for every query and key."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = hf.BeitConfig(**sizes, image_size=32, patch_size=8, use_relative_position_bias=True)
    hf.BeitModel(config).save_pretrained(tmp_path)
    encoder = build_image_encoder(str(tmp_path), 32, "auto", pretrained=True)
    before = features(encoder, "timm_vit")
    PrefixTuning("tune.image_encoder", 4).apply(encoder)
    assert not torch.equal(features(encoder, "timm_vit"), before)
    monkeypatch.setattr(masks, "_seen", masks._unseen)
    assert torch.allclose(features(encoder, "timm_vit"), before, atol=1e-5)


def test_what_does_not_fit(fit: Fit) -> None:
    assert PrefixTuning("tune.text_encoder").length == 10
    for kind in ("timm_resnet", "timm_convnext"):
        with pytest.raises(UserError, match=r"tune.image_encoder: prefix does not fit .* Type tune/image_encoder=ad"):
            fit(kind, "prefix")
    with pytest.raises(UserError, match=r"DebertaV2Attention are not handed .* Type tune/text_encoder=prompt or"):
        fit("deberta_v2", "prefix")
    encoder, method = fit("bert", "prefix")
    with pytest.raises(UserError, match=r"tune.text_encoder: .* has no weights to merge .* mmft predict run=RUN"):
        method.merge(encoder)
