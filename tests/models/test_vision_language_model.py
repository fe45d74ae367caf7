"""The whole forward, absent modalities, dropout everywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_encoders import IMAGE_KINDS, TEXT_KINDS

from mmft import build
from mmft.batch import Batch
from mmft.config.compose import compose
from mmft.models.image_encoder import build_image_encoder
from mmft.models.layers import blocks
from mmft.models.text_encoder import build_text_encoder
from mmft.models.vision_language_model import VisionLanguageModel, part_of, present_rows, set_dropout


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
    model.count_stand_ins()
    model(replace(batch, image_present=nowhere)).logits.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.image_encoder.parameters())
    assert model.missing_image.vector.grad.any()
    assert model.missing_text.vector.grad is not None
    assert not model.missing_text.vector.grad.any()


def test_an_encoder_sees_only_the_rows_that_have_its_modality(
    shapes_overrides: list[str], image_encoder_folder: Any, batch: Batch
) -> None:
    """In train mode a BatchNorm would mix the zeros of absent rows into the others' features and its buffers."""
    folder = image_encoder_folder("timm_resnet")
    config = compose("train", [*shapes_overrides, f"model.image_encoder.name={folder}", "model.dropout=0"]).config.model
    some, alone = build.build_model(config, 6, seed=0), build.build_model(config, 6, seed=0)
    rows = torch.tensor([0, 2])
    present = torch.tensor([True, False, True, False])
    with torch.no_grad():
        out = some.encode_image(replace(batch, image_present=present), present_rows(present))
        own = alone.image_encoder(batch.pixel_values[rows])
    assert torch.equal(out.tokens[rows], own.tokens)
    assert torch.equal(out.pooled[rows], own.pooled)
    assert not out.tokens[~present].any()
    assert out.mask.any(1).tolist() == present.tolist()
    buffers = dict(some.image_encoder.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in alone.image_encoder.named_buffers())


def test_no_encoder_runs_where_no_row_has_its_modality(model: VisionLanguageModel, batch: Batch) -> None:
    nowhere = torch.zeros(4, dtype=torch.bool)
    calls: list[str] = []
    for name in ("image_encoder", "text_encoder"):
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    model(replace(batch, image_present=nowhere))
    assert calls == ["text_encoder"]


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


@pytest.mark.parametrize("kind", [*IMAGE_KINDS, *TEXT_KINDS])
def test_no_dropout_means_none(kind: str, encoder: Any) -> None:
    """Also from an encoder whose own rates are not 0: timm's functional rates are numbers."""
    part, inputs = encoder(kind)
    set_dropout(part, 0.5)
    set_dropout(part, 0)
    with torch.no_grad():
        assert torch.equal(part.train()(*inputs).pooled, part(*inputs).pooled)


@pytest.mark.parametrize("kind", ["timm_vit", "hf_dinov2", "hf_siglip", "hf_clip", *TEXT_KINDS])
def test_dropout_acts_in_every_block(kind: str, encoder: Any) -> None:
    """One block's dropout at a time: the same input gives two outputs. So do its attention's weights alone."""
    part, inputs = encoder(kind)
    set_dropout(part, 0.5)
    modules = [module for _, module in part.backbone.named_modules()]
    for block in blocks(part.backbone):
        part.eval()
        for place in block:
            modules[place].training = True
        with torch.no_grad():
            assert not torch.equal(part(*inputs).tokens, part(*inputs).tokens), modules[block.start]


def test_dropout_reaches_what_is_an_identity_or_a_number(encoder: Any) -> None:
    modernbert = encoder("modernbert")[0]
    set_dropout(modernbert, 0.5)
    assert [m.p for n, m in modernbert.named_modules() if n.endswith("out_drop")] == [0.5, 0.5]
    resnet = encoder("timm_resnet")[0]
    set_dropout(resnet, 0.5)
    assert resnet.backbone.drop_rate == 0.5


@pytest.fixture
def encoder(image_encoder_folder: Any, text_encoder_folder: Any, batch: Batch) -> Any:
    """`encoder(kind)`: one of the tiny kinds, and what it takes."""

    def build_one(kind: str) -> tuple[Any, tuple[Any, ...]]:
        if kind in IMAGE_KINDS:
            folder = str(image_encoder_folder(kind))
            return build_image_encoder(folder, 32, "auto", pretrained=True), (batch.pixel_values,)
        text = build_text_encoder(str(text_encoder_folder(kind)), 32, "auto", pretrained=True)
        return text, (batch.input_ids, batch.attention_mask)

    return build_one


def test_the_same_seed_gives_the_same_new_weights_whatever_the_encoders(
    shapes_overrides: list[str], image_encoder_folder: Any
) -> None:
    def new_weights(kind: str, seed: int) -> list[torch.Tensor]:
        name = f"model.image_encoder.name={image_encoder_folder(kind)}"
        # Random encoders draw from the generator, each as many numbers as it has weights.
        overrides = [*shapes_overrides, name, "model.image_encoder.pretrained=false"]
        model = build.build_model(compose("train", overrides).config.model, 6, seed)
        return [*model.fusion.parameters(), *model.head.parameters()]

    first, *others = (new_weights(kind, 0) for kind in ("timm_vit", "timm_resnet", "hf_dinov2"))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[-2], new_weights("timm_vit", 1)[-2])


def test_every_parameter_belongs_to_a_part(model: VisionLanguageModel) -> None:
    parts = {name: part_of(name) for name, _ in model.named_parameters()}
    assert parts["missing_image.vector"] == "fusion"
    assert set(parts.values()) == {"image_encoder", "text_encoder", "fusion", "head"}
