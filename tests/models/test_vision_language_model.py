"""The whole forward, absent modalities, dropout everywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from mmft import build
from mmft.batch import Batch
from mmft.config.compose import compose
from mmft.models.vision_language_model import VisionLanguageModel, part_of


@pytest.fixture
def model(shapes_overrides: list[str]) -> VisionLanguageModel:
    return build.build_model(compose("train", shapes_overrides).config.model, 6, seed=0).eval()


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        pixel_values=torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator),
        input_ids=torch.randint(5, 20, (4, 8), generator=generator),
        attention_mask=torch.ones(4, 8, dtype=torch.bool),
        image_present=torch.ones(4, dtype=torch.bool),
        text_present=torch.ones(4, dtype=torch.bool),
        row=torch.arange(4),
        weight=torch.ones(4),
    )


def test_shapes(model: VisionLanguageModel, batch: Batch) -> None:
    out = model(batch)
    assert out.logits.shape == (4, 6)
    assert out.image.shape == (4, model.image_encoder.pooled_width)
    assert out.text.shape == (4, model.text_encoder.pooled_width)


def test_what_an_absent_side_holds_changes_nothing(model: VisionLanguageModel, batch: Batch) -> None:
    torch.nn.init.normal_(model.missing_image.vector)
    present = torch.tensor([True, False, True, False])
    absent = replace(batch, image_present=present, text_present=~present)
    other = replace(absent, pixel_values=absent.pixel_values.clone(), input_ids=absent.input_ids.clone())
    other.pixel_values[~present] = 0
    other.input_ids[present] = 7
    with torch.no_grad():
        a, b, whole = model(absent), model(other), model(batch)
    assert torch.equal(a.logits, b.logits)
    assert torch.equal(a.image[1], model.missing_image.vector)
    assert torch.equal(a.text[0], model.missing_text.vector)
    assert torch.allclose(a.image[0], whole.image[0], atol=1e-6)


def test_a_modality_that_no_row_has_needs_no_encoder(model: VisionLanguageModel, batch: Batch) -> None:
    nowhere = torch.zeros(4, dtype=torch.bool)
    with torch.no_grad():
        zeros = model(replace(batch, image_present=nowhere, text_present=nowhere))
        model.image_encoder = model.text_encoder = None
        absent = {"pixel_values": None, "input_ids": None, "attention_mask": None}
        none = model(replace(batch, **absent, image_present=nowhere, text_present=nowhere))
    assert torch.equal(none.logits, zeros.logits)


def test_an_absent_side_gives_its_encoder_no_gradient_and_its_stand_in_one(
    model: VisionLanguageModel, batch: Batch
) -> None:
    nowhere = torch.zeros(4, dtype=torch.bool)
    model(replace(batch, image_present=nowhere)).logits.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.image_encoder.parameters())
    assert model.missing_image.vector.grad.any()
    assert not model.missing_text.vector.grad.any()


def test_dropout_is_set_everywhere(shapes_overrides: list[str], batch: Batch) -> None:
    config = compose("train", [*shapes_overrides, "model.dropout=0"]).config.model
    model = build.build_model(config, 6, seed=0)
    with torch.no_grad():
        assert torch.equal(model(batch).logits, model(batch).logits)
    config.dropout = 0.5
    model = build.build_model(config, 6, seed=0)
    rates: list[Any] = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert rates
    assert set(rates) == {0.5}


def test_the_same_seed_gives_the_same_new_weights_whatever_the_encoders(
    shapes_overrides: list[str],
) -> None:
    config = compose("train", shapes_overrides).config.model
    a, b, c = (build.build_model(config, 6, seed) for seed in (0, 0, 1))
    assert torch.equal(a.head.weight, b.head.weight)
    assert not torch.equal(a.head.weight, c.head.weight)


def test_every_parameter_belongs_to_a_part(model: VisionLanguageModel) -> None:
    parts = {name: part_of(name) for name, _ in model.named_parameters()}
    assert parts["missing_image.vector"] == "fusion"
    assert set(parts.values()) == {"image_encoder", "text_encoder", "fusion", "head"}
