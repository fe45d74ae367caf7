"""Fusions: what they compute, that they read nothing that is not there, and that they learn with every encoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from runs import TrainRun
from tiny_encoders import IMAGE_KINDS, TEXT_KINDS
from torch import Tensor, nn

from mmft import build, load
from mmft.batch import Batch, Encoded, Widths
from mmft.config.compose import compose
from mmft.config.registry import options
from mmft.errors import UserError
from mmft.models.fusion.gated import GatedFusion
from mmft.models.fusion.merged import MergedFusion
from mmft.models.vision_language_model import VisionLanguageModel, set_dropout

FUSIONS = list(options("model/fusion"))
B, N, L = 4, 5, 8
SMALL = {"merged": ["model.fusion.width=32", "model.fusion.heads=2"]}


@pytest.fixture
def built(shapes_overrides: list[str]) -> Callable[..., VisionLanguageModel]:
    """`built("merged", "model.dropout=0")`: a model with this fusion and small encoders."""

    def build_one(fusion: str, *typed: str) -> VisionLanguageModel:
        overrides = [*shapes_overrides, f"model/fusion={fusion}", *SMALL.get(fusion, []), *typed]
        return build.build_model(compose("train", overrides).config.model, 6, seed=0)

    return build_one


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(B, L, dtype=torch.bool)
    mask[1, 5:] = False
    return Batch(
        pixel_values=torch.randint(0, 256, (B, 3, 32, 32), dtype=torch.uint8, generator=generator),
        input_ids=torch.randint(5, 20, (B, L), generator=generator),
        attention_mask=mask,
        image_present=torch.ones(B, dtype=torch.bool),
        text_present=torch.ones(B, dtype=torch.bool),
        row=torch.arange(B),
        weight=torch.ones(B),
    )


def encoded(length: int, width: int, real: int | None = None) -> Encoded:
    tokens = torch.randn(B, length, width, generator=torch.Generator().manual_seed(width))
    mask = torch.arange(length).expand(B, -1) < (length if real is None else real)
    return Encoded(tokens, mask, tokens[:, 0])


def test_every_fusion_is_tested() -> None:
    assert FUSIONS == ["concat", "gated", "merged"]


PAIRS = [(kind, "bert") for kind in IMAGE_KINDS] + [("timm_vit", kind) for kind in TEXT_KINDS if kind != "bert"]


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(("image", "text"), PAIRS)
def test_every_parameter_gets_a_gradient_with_every_encoder(
    fusion: str, image: str, text: str, built: Any, batch: Batch, image_encoder_folder: Any, text_encoder_folder: Any
) -> None:
    """And the encoders' are no zeros: the fusion reads both."""
    folders = image_encoder_folder(image, width=24), text_encoder_folder(text, width=40)
    names = [f"model.{t}_encoder.name={f}" for t, f in zip(("image", "text"), folders, strict=True)]
    model = built(fusion, *names)
    logits = model(batch).logits
    assert logits.shape == (B, 6)
    logits.square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without
    for part in (model.image_encoder, model.text_encoder, model.fusion):
        assert all(bool(p.grad.isfinite().all()) for p in part.parameters())
        assert any(bool(p.grad.any()) for p in part.parameters())


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("pool", ["cls", "cls_mean"])
def test_what_is_absent_or_padded_changes_nothing(fusion: str, pool: str, built: Any, batch: Batch) -> None:
    """Content of an absent side, content and length of padding; alone in its batch or not."""
    model = built(fusion, f"model.image_encoder.pool={pool}", f"model.text_encoder.pool={pool}").eval()
    for stand_in in (model.missing_image, model.missing_text):
        nn.init.normal_(stand_in.vector)
    batch.image_present[:] = torch.tensor([True, False, True, False])
    batch.text_present[:] = torch.tensor([True, True, False, False])
    other = replace(batch, pixel_values=batch.pixel_values.clone(), input_ids=batch.input_ids.clone())
    other.pixel_values[~batch.image_present] = 77
    other.input_ids[~batch.text_present] = 9
    other.input_ids[~batch.attention_mask] = 11
    other.input_ids = torch.cat([other.input_ids, torch.full((B, 16), 7)], dim=1)
    other.attention_mask = torch.cat([batch.attention_mask, torch.zeros(B, 16, dtype=torch.bool)], dim=1)
    with torch.no_grad():
        logits = model(batch).logits
        assert (model(other).logits - logits).abs().max() <= 1e-6
        for row in range(B):  # a batch in which no row has what this one lacks
            alone = model(batch._map(lambda t, r=row: t[r : r + 1])).logits
            assert (alone[0] - logits[row]).abs().max() <= 1e-6
    assert logits.isfinite().all()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_rows_without_any_modality_are_finite_and_teach_the_stand_ins(fusion: str, built: Any, batch: Batch) -> None:
    model = built(fusion, "model.image_encoder.pool=cls_mean")
    nowhere = torch.zeros(B, dtype=torch.bool)
    nothing = {"pixel_values": None, "input_ids": None, "attention_mask": None}
    logits = model(replace(batch, **nothing, image_present=nowhere, text_present=nowhere)).logits
    assert logits.isfinite().all()
    logits.square().sum().backward()
    for stand_in in (model.missing_image, model.missing_text):
        assert stand_in.vector.grad.isfinite().all()
        assert stand_in.vector.grad.any()
    for part in (model.fusion, model.head):
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in part.parameters())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_bf16_autocast(fusion: str, built: Any, batch: Batch) -> None:
    model = built(fusion, "model.dropout=0")
    batch.image_present[1] = batch.text_present[2] = False
    plain = model(batch).logits
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(batch).logits
    assert (logits - plain).abs().max() < 0.1
    logits.float().square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_dropout_is_set(fusion: str, built: Any, batch: Batch) -> None:
    none = built(fusion, "model.dropout=0")
    with torch.no_grad():
        assert torch.equal(none(batch).logits, none(batch).logits)
    own = built(fusion, "model.fusion.dropout=0.25").fusion
    rates = [m.p for m in own.modules() if isinstance(m, nn.Dropout)]
    assert rates
    assert set(rates) == {0.25}
    set_dropout(own, 0.5)
    assert {m.p for m in own.modules() if isinstance(m, nn.Dropout)} == {0.5}


def test_dropout_of_attention_weights_alone_acts_in_every_block() -> None:
    fusion = MergedFusion(Widths(8, 8), Widths(12, 12), width=16, layers=3, heads=2, dropout=0.5).eval()
    for block in fusion.blocks:
        block.attention.training = True
        with torch.no_grad():
            outs = [fusion(encoded(N, 8), encoded(L, 12)) for _ in range(2)]
        assert not torch.equal(*outs)
        block.eval()


def test_gated_is_the_papers_formula() -> None:
    fusion = GatedFusion(Widths(3, 8), Widths(5, 12), hidden=16, dropout=0.5).double().eval()
    image, text = (torch.randn(B, width, dtype=torch.float64) for width in (8, 12))
    empty = torch.zeros(B, 1, 1), torch.ones(B, 1, dtype=torch.bool)
    got = fusion(Encoded(*empty, image), Encoded(*empty, text))
    x = nn.functional.layer_norm(torch.cat([image, text], 1), (20,))
    z = 1 / (1 + torch.exp(-(x @ fusion.gate.weight.T + fusion.gate.bias)))
    h_i = torch.tanh(x[:, :8] @ fusion.image.weight.T + fusion.image.bias)
    h_t = torch.tanh(x[:, 8:] @ fusion.text.weight.T + fusion.text.bias)
    assert torch.allclose(got, z * h_i + (1 - z) * h_t, atol=1e-12)


def test_merged_is_torchs_transformer_over_all_tokens() -> None:
    fusion = MergedFusion(Widths(8, 8), Widths(12, 24), width=16, layers=2, heads=2, dropout=0.1).double().eval()
    image, text = encoded(N, 8), encoded(L, 12, real=6)
    image, text = image._replace(tokens=image.tokens.double()), text._replace(tokens=text.tokens.double())
    reference = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 64, 0.1, "gelu", batch_first=True, norm_first=True),
        2,
        enable_nested_tensor=False,
    ).double()
    for mine, theirs in zip(fusion.blocks, reference.layers, strict=True):
        theirs.load_state_dict(
            {
                **{f"norm{i}.{k}": v for i in (1, 2) for k, v in getattr(mine, f"norm{i}").state_dict().items()},
                "self_attn.in_proj_weight": mine.attention.qkv.weight,
                "self_attn.in_proj_bias": mine.attention.qkv.bias,
                **{f"self_attn.out_proj.{k}": v for k, v in mine.attention.proj.state_dict().items()},
                **{f"linear1.{k}": v for k, v in mine.mlp[0].state_dict().items()},
                **{f"linear2.{k}": v for k, v in mine.mlp[3].state_dict().items()},
            }
        )
    parts = [fusion.class_token.expand(B, 1, -1)]
    parts += [
        fusion.image(image.tokens) + fusion.modality.weight[0],
        fusion.text(text.tokens) + fusion.modality.weight[1],
    ]
    mask = torch.cat([torch.ones(B, 1, dtype=torch.bool), image.mask, text.mask], 1)
    with torch.no_grad():
        expected = fusion.norm(reference.eval()(torch.cat(parts, 1), src_key_padding_mask=~mask)[:, 0])
        assert torch.allclose(fusion(image, text), expected, atol=1e-12)


@pytest.mark.parametrize("content", [0.0, 1e6, float("inf"), float("nan")])
@pytest.mark.parametrize("length", [6, 7, 64])
def test_merged_never_reads_padding(length: int, content: float) -> None:
    """Nor does padding get or spoil a gradient; to float32's rounding, and in float64 to float64's."""
    torch.manual_seed(0)
    fusion = MergedFusion(Widths(8, 8), Widths(12, 12), width=16, layers=2, heads=2, dropout=0.0)
    image, text = encoded(N, 8), encoded(6, 12)
    tokens = torch.full((B, length, 12), content)
    tokens[:, :6] = text.tokens
    mask = torch.arange(length).expand(B, -1) < 6
    with torch.no_grad():
        assert (fusion(image, Encoded(tokens, mask, text.pooled)) - fusion(image, text)).abs().max() <= 1e-6
    fusion.double()
    image, text = image._replace(tokens=image.tokens.double()), text._replace(tokens=text.tokens.double())
    exact = tokens.double().requires_grad_()
    gradients: list[list[Tensor]] = []
    for given in (text, Encoded(exact, mask, text.pooled)):
        fusion.zero_grad()
        fusion(image, given).square().sum().backward()
        gradients.append([p.grad.clone() for p in fusion.parameters()])
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(*gradients, strict=True))
    assert exact.grad is not None
    assert not exact.grad[:, 6:].any()


def test_heads_that_cannot_share_the_width(shapes_overrides: list[str]) -> None:
    with pytest.raises(UserError, match=r"model.fusion.heads: 3 heads cannot share .*Type model.fusion.width=258"):
        compose("train", [*shapes_overrides, "model/fusion=merged", "model.fusion.heads=3"])
    with pytest.raises(ValueError, match="no multiple"):
        MergedFusion(Widths(8, 8), Widths(8, 8), width=16, layers=1, heads=3, dropout=0.0)


def test_one_dropout_in_every_fusion(shapes_overrides: list[str]) -> None:
    for fusion in FUSIONS:
        typed = [*shapes_overrides, f"model/fusion={fusion}", "model.dropout=0.2"]
        compose("train", typed)
        with pytest.raises(UserError, match="model.fusion.dropout: changes nothing"):
            compose("train", [*typed, "model.fusion.dropout=0.3"])


@pytest.mark.parametrize("fusion", ["gated", "merged"])
def test_it_learns_and_the_finished_model_is_the_same(fusion: str, train_run: TrainRun, shapes: Any) -> None:
    """`debug=overfit` does what it promises, and the folder builds the model that was trained."""
    typed = [*SMALL.get(fusion, []), "data.limit=null", "trainer.max_epochs=25", "model.image_encoder.pool=cls_mean"]
    run = train_run("debug=overfit", f"model/fusion={fusion}", *typed)
    assert run.summary["test"]["accuracy"] == 1.0
    content = json.loads((run.path / "model" / "config.json").read_text())
    assert content["config"]["model"]["fusion"]["type"] == fusion
    model = load(run.path)
    assert type(model.model.fusion).__module__ == f"mmft.models.fusion.{fusion}"
    whole = {"image": str(shapes.rows.parent / "images" / "0000.png"), "text": "a painting in red"}
    rows = [whole, whole | {"image": None}, whole | {"text": ""}]
    together, alone = model.predict(rows), [model.predict([row])[0] for row in rows]
    for a, b in zip(together, alone, strict=True):
        assert a["error"] is None
        assert a["prediction"] == b["prediction"]
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)
