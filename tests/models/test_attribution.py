"""Integrated gradients: they add up, for every kind of encoder; what does nothing gets nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from mmft import build
from mmft.batch import Batch, Outputs
from mmft.config.compose import compose
from mmft.models.attribution import Baseline, integrated_gradients
from mmft.models.vision_language_model import VisionLanguageModel

PAIRS = [
    ("timm_vit", "bert", "concat"),
    ("timm_convnext", "roberta", "merged"),
    ("timm_resnet", "modernbert", "gated"),
    ("hf_dinov2", "deberta_v2", "film"),
    ("hf_clip", "clip", "cross"),
    ("hf_siglip", "bert", "low_rank"),
]


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        pixel_values=torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=generator),
        input_ids=torch.randint(5, 20, (1, 8), generator=generator),
        attention_mask=torch.ones(1, 8, dtype=torch.bool),
        image_present=torch.ones(1, dtype=torch.bool),
        text_present=torch.ones(1, dtype=torch.bool),
        row=torch.arange(1),
        weight=torch.ones(1),
    )


BASELINE = Baseline((255, 255, 255), torch.full((8,), 4))
WEIGHTS = torch.tensor([1.0, -0.5, 0, 0, 0, -0.5], dtype=torch.float64)


def value(outputs: Outputs) -> torch.Tensor:
    return outputs.logits @ WEIGHTS


def model_of(overrides: list[str], *typed: str) -> VisionLanguageModel:
    return build.build_model(compose("train", [*overrides, *typed]).config.model, 6, seed=0).eval().double()


@pytest.mark.parametrize(("image", "text", "fusion"), PAIRS)
def test_weights_add_up(
    shapes_overrides: list[str],
    image_encoder_folder: Any,
    text_encoder_folder: Any,
    batch: Batch,
    image: str,
    text: str,
    fusion: str,
) -> None:
    names = [f"model.image_encoder.name={image_encoder_folder(image)}", "model.image_encoder.image_size=32"]
    model = model_of(
        shapes_overrides, *names, f"model.text_encoder.name={text_encoder_folder(text)}", f"model/fusion={fusion}"
    )
    found = integrated_gradients(model, batch, value, BASELINE, points=128, at_once=64)
    assert found.image is not None
    assert found.text is not None
    assert (found.image.shape, found.text.shape) == ((32, 32), (8,))
    with torch.no_grad():
        assert found.value == pytest.approx(float(model(batch).logits[0] @ WEIGHTS), rel=1e-9)
        pixels = torch.full_like(batch.pixel_values, 255)  # type: ignore[arg-type]
        nothing = replace(batch, pixel_values=pixels, input_ids=BASELINE.input_ids[None])
        assert found.baseline == pytest.approx(float(model(nothing).logits[0] @ WEIGHTS), rel=1e-9)
    parts = float(found.image.abs().sum() + found.text.abs().sum())
    assert abs(found.missed) < 0.01 * parts
    assert not model.text_encoder.backbone.get_input_embeddings()._forward_hooks


def test_points_at_once_change_nothing_and_what_does_nothing_gets_nothing(
    shapes_overrides: list[str], batch: Batch
) -> None:
    model = model_of(shapes_overrides)
    same = batch.input_ids.clone()  # type: ignore[union-attr]
    same[0, 3] = 4  # the token is the baseline's own
    pixels = batch.pixel_values.clone()  # type: ignore[union-attr]
    pixels[..., :8] = 255
    batch = replace(batch, input_ids=same, pixel_values=pixels)
    one, other = (integrated_gradients(model, batch, value, BASELINE, 10, at_once) for at_once in (3, 64))
    assert torch.allclose(one.image, other.image, atol=1e-12)  # type: ignore[arg-type]
    assert torch.allclose(one.text, other.text, atol=1e-12)  # type: ignore[arg-type]
    assert one.value == pytest.approx(other.value)
    assert not one.image[:, :8].any()  # type: ignore[index]
    assert one.image[:, 8:].all()  # type: ignore[index]
    assert float(one.text[3]) == 0  # type: ignore[index]


def test_a_missing_modality_has_no_weights(shapes_overrides: list[str], batch: Batch) -> None:
    model, absent = model_of(shapes_overrides), torch.zeros(1, dtype=torch.bool)
    alone = replace(batch, image_present=absent, pixel_values=None)
    found = integrated_gradients(model, alone, value, BASELINE, 64, 64)
    assert found.image is None
    assert abs(found.missed) < 1e-3
    alone = replace(batch, text_present=absent, input_ids=None, attention_mask=None)
    assert integrated_gradients(model, alone, value, BASELINE, 8, 64).text is None
