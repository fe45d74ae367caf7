"""Fusions: what they compute, that they read nothing that is not there, and that they learn with every encoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from runs import TrainRun
from small_fusions import FUSIONS, LEARNED, TOKENS, B, L, N, alone, double, encoded, moved, small, with_padding
from tiny_encoders import IMAGE_KINDS, TEXT_KINDS
from torch import Tensor, nn

from mmft import build, load
from mmft.batch import Batch, Encoded
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.models.fusion.blocks import Attention
from mmft.models.fusion.dual import unit_vectors
from mmft.models.vision_language_model import VisionLanguageModel, set_dropout


@pytest.fixture
def built(shapes_overrides: list[str]) -> Callable[..., VisionLanguageModel]:
    """`built("merged", "model.dropout=0")`: a model with this fusion and small encoders."""

    def build_one(fusion: str, *typed: str) -> VisionLanguageModel:
        overrides = [*shapes_overrides, f"model/fusion={fusion}", *small(fusion), *typed]
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


def test_every_fusion_is_tested() -> None:
    assert FUSIONS == ["concat", "linear", "gated", "merged", "film", "low_rank", "cross", "resampler"]
    assert TOKENS == ["merged", "film", "cross", "resampler"]


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
    moved(model.fusion)
    model.count_stand_ins()
    logits = model(batch).logits
    assert logits.shape == (B, 6)
    logits.square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without
    learned = (model.image_encoder, model.text_encoder, *([model.fusion] if fusion in LEARNED else []))
    for part in learned:
        assert all(bool(p.grad.isfinite().all()) for p in part.parameters())
        assert any(bool(p.grad.any()) for p in part.parameters())


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("pool", ["cls", "cls_mean"])
def test_what_is_absent_or_padded_changes_nothing(fusion: str, pool: str, built: Any, batch: Batch) -> None:
    """Content of an absent side, content and length of padding; alone in its batch or not."""
    model = built(fusion, f"model.image_encoder.pool={pool}", f"model.text_encoder.pool={pool}").eval()
    moved(model.fusion)
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
            alone = model(batch.map_tensors(lambda t, r=row: t[r : r + 1])).logits
            assert (alone[0] - logits[row]).abs().max() <= 1e-6
    assert logits.isfinite().all()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_rows_without_any_modality_are_finite_and_teach_the_stand_ins(fusion: str, built: Any, batch: Batch) -> None:
    model = built(fusion, "model.image_encoder.pool=cls_mean")
    moved(model.fusion)
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


@pytest.mark.parametrize("fusion", LEARNED)
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


@pytest.mark.parametrize("fusion", ["merged", "cross", "resampler"])
def test_dropout_of_attention_weights_alone_acts_in_every_block(fusion: str) -> None:
    module = alone(fusion, dropout=0.5, layers=3).eval()
    attentions = [part for part in module.modules() if isinstance(part, Attention)]
    assert len(attentions) == (12 if fusion == "cross" else 3)
    for attention in attentions:
        attention.training = True
        with torch.no_grad():
            outs = [module(encoded(N, 8), encoded(L, 12)) for _ in range(2)]
        assert not torch.equal(*outs)
        attention.eval()


@pytest.mark.parametrize("fusion", LEARNED)
def test_every_parameter_of_a_fusion_matters(fusion: str) -> None:
    """Each gets a gradient that is not zero, from rows that differ."""
    module = alone(fusion).double()
    module(double(encoded(N, 8)), double(encoded(L, 12, real=[6, 1, L, 3]))).pow(3).sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(("fusion", "more"), [*((name, {}) for name in TOKENS), ("film", {"condition": "image"})])
@pytest.mark.parametrize("content", [0.0, 1e6, float("inf"), float("nan")])
@pytest.mark.parametrize("length", [6, 7, 64])
def test_padding_is_never_read(fusion: str, more: dict[str, str], length: int, content: float) -> None:
    """On either side; nor does it get or spoil a gradient; to float32's rounding, and in float64 to float64's."""
    torch.manual_seed(0)
    module = alone(fusion, **more)
    plain = encoded(N, 8), encoded(6, 12)
    padded = tuple(with_padding(side, length, content) for side in plain)
    with torch.no_grad():
        assert (module(*padded) - module(*plain)).abs().max() <= 1e-6
    module.double()
    given = [double(side) for side in padded]
    for side in given:
        side.tokens.requires_grad_()
    gradients: list[list[Tensor]] = []
    for image, text in ([double(side) for side in plain], given):
        module.zero_grad()
        module(image, text).pow(3).sum().backward()
        gradients.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(*gradients, strict=True))
    for side in given:
        assert side.tokens.grad is not None
        assert not side.tokens.grad[~side.mask].any()
        assert side.tokens.grad[side.mask].any()


@pytest.mark.parametrize("fusion", TOKENS)
def test_rows_do_not_see_one_another(fusion: str) -> None:
    module, (image, text) = alone(fusion).double(), (double(encoded(N, 8)), double(encoded(L, 12, real=[6, 1, L, 3])))
    together = module(image, text)
    for row in range(B):
        one = [Encoded(*(part[row : row + 1] for part in side)) for side in (image, text)]
        assert torch.allclose(module(*one)[0], together[row], atol=1e-12)


@pytest.mark.parametrize("fusion", ["merged", "cross", "resampler"])
def test_heads_that_cannot_share_the_width(fusion: str, shapes_overrides: list[str]) -> None:
    with pytest.raises(UserError, match=r"model.fusion.heads: 3 heads do not divide .*Type model.fusion.width=258"):
        compose("train", [*shapes_overrides, f"model/fusion={fusion}", "model.fusion.heads=3"])
    with pytest.raises(ValueError, match="not a multiple"):
        alone(fusion, width=16, heads=3)


def test_one_dropout_in_every_fusion(shapes_overrides: list[str]) -> None:
    for fusion in LEARNED:
        typed = [*shapes_overrides, f"model/fusion={fusion}", "model.dropout=0.2"]
        compose("train", typed)
        with pytest.raises(UserError, match="model.fusion.dropout: changes nothing"):
            compose("train", [*typed, "model.fusion.dropout=0.3"])


@pytest.mark.parametrize("fusion", ["gated", "merged", "film", "low_rank", "cross", "resampler"])
def test_it_learns_and_the_finished_model_is_the_same(fusion: str, train_run: TrainRun, shapes: Any) -> None:
    """`debug=overfit` does what it promises, and the folder builds the model that was trained."""
    typed = [*small(fusion), "data.limit=null", "trainer.max_epochs=25", "model.image_encoder.pool=cls_mean"]
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


def test_zeros_have_no_length_and_an_ordinary_gradient() -> None:
    """A missing modality's stand-in starts from zeros; in fusions without norm and bias they reach the unit vectors."""
    zeros, others = torch.zeros(2, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    found = unit_vectors(zeros, others)
    assert torch.equal(found[:, :4], zeros)
    assert torch.allclose(found[:, 4:].norm(dim=-1), torch.ones(2))
    found.sum().backward()
    assert torch.equal(zeros.grad, torch.ones(2, 4))
    assert float(others.grad.abs().max()) < 10
