"""Whole vision-language models against plain transformers with the model's own processor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from generative_rows import added_up
from torch import Tensor
from torch.nn import functional
from whole_models import WHOLE_MODELS
from whole_rows import (
    ANSWERS,
    LENGTH,
    WEIGHTS,
    Folder,
    check_gradients,
    make,
    plain_inputs,
    plain_logits,
    plain_model,
    rows,
)

from mmft import build
from mmft.errors import UserError
from mmft.models.frozen_layers import FrozenLayers
from mmft.models.whole.parts import put_together
from mmft.models.whole.pixels import Pixels


@pytest.mark.parametrize("name", ["Glm4vImageProcessor", "Qwen2VLImageProcessor"])
def test_squares_of_any_processor_of_patches(name: str) -> None:
    """Some count the pixels of all frames against their limits."""
    processor = getattr(hf, name)(patch_size=8, merge_size=2, temporal_patch_size=2)
    pixels = Pixels(processor, 64, name)
    assert pixels.side == 64
    assert pixels.constants["image_grid_thw"].tolist() == [[1, 8, 8]]


@pytest.mark.parametrize("kind", WHOLE_MODELS)
def test_logits_and_texts_are_those_of_plain_transformers(kind: str, whole_folder: Folder, shapes: Any) -> None:
    model, task, _ = make(whole_folder(kind), shapes)
    batch = rows(model, task)
    plain = plain_model(whole_folder(kind), model.image_encoder.image_size)
    with torch.no_grad():
        found = model.eval()(batch)
        for row, answer in enumerate(ANSWERS):
            inputs = plain_inputs(model, batch, row)
            ids = torch.tensor(task.tokenizer.answer(answer))
            wanted = plain_logits(plain, inputs, ids).log_softmax(-1)[range(len(ids)), ids]
            torch.testing.assert_close(found.logits[row, : len(ids)], wanted, atol=1e-5, rtol=1e-5)
            ending: dict[str, Any] = {"eos_token_id": task.tokenizer.eos_token_id, "pad_token_id": 1}
            ending["suppress_tokens"] = model.text_encoder.never_written  # it stands for an image
            texts = plain.generate(**inputs, max_new_tokens=LENGTH, do_sample=False, **ending)[0].tolist()
            tokens = [token for token in found.generated[row].tolist() if token >= 0]
            assert tokens == texts[inputs["input_ids"].shape[1] :][: len(tokens)]


@pytest.mark.parametrize("kind", WHOLE_MODELS)
def test_a_row_alone_is_the_row_in_a_batch(kind: str, whole_folder: Folder, shapes: Any) -> None:
    model, task, _ = make(whole_folder(kind), shapes)
    batch = rows(model, task)
    batch.image_present[4] = False
    torch.nn.init.normal_(model.missing_image.vector)
    with torch.no_grad():
        together = model.eval()(batch)
        other = model(replace(batch, pixel_values=batch.pixel_values.flip(0))).logits  # type: ignore[union-attr]
        assert float((other - together.logits).abs().max()) > 1e-3  # the image matters
        for row, part in enumerate(batch.split(1)):
            assert part.input_ids is not None
            assert part.attention_mask is not None
            length = int(part.attention_mask.sum())
            ids, mask = part.input_ids[:, :length], part.attention_mask[:, :length]
            alone = model(replace(part, input_ids=ids, attention_mask=mask))
            torch.testing.assert_close(alone.logits, together.logits[row : row + 1], atol=2e-6, rtol=0)
            assert torch.equal(alone.generated, together.generated[row : row + 1, : alone.generated.shape[1]])


@pytest.mark.parametrize("kind", WHOLE_MODELS)
def test_a_row_alone_is_the_row_in_a_batch_in_float64(
    kind: str, whole_folder: Folder, shapes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 1e-12: what float32 differs by is its rounding alone."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)  # norms and rotary angles are computed in float32 otherwise
    model, task, _ = make(whole_folder(kind), shapes)
    model.double().eval()
    batch = rows(model, task)
    batch.image_present[4] = False
    torch.nn.init.normal_(model.missing_image.vector)
    with torch.no_grad():
        together = model.score(batch).logits
        alone = torch.cat([model.score(part).logits for part in batch.split(1)])
    torch.testing.assert_close(alone, together, atol=1e-12, rtol=0)


@pytest.mark.parametrize("micro", [None, 7, 1])
@pytest.mark.parametrize("kind", ["smolvlm", "llava", "qwen2_5_vl", "paligemma"])
def test_loss_and_gradients_are_those_of_plain_transformers(
    kind: str, micro: int | None, whole_folder: Folder, shapes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tensor, "float", Tensor.double)  # Gemma's norms are computed in float32 otherwise
    model, task, config = make(whole_folder(kind), shapes, "tune=full")
    plan = build.build_plan(config, model)
    model.double().train()
    batch = rows(model, task)
    plain = plain_model(whole_folder(kind), model.image_encoder.image_size).double().train()
    total, weights = torch.zeros((), dtype=torch.float64), 0.0
    for row, answer in enumerate(ANSWERS):
        inputs = plain_inputs(model, batch, row)
        assert batch.pixel_values is not None
        normalised = model.image_encoder.normalise(batch.pixel_values[row : row + 1])
        inputs["pixel_values"] = model.whole.pixels.arranged(normalised)  # in float64
        ids = torch.tensor(task.tokenizer.answer(answer))
        loss = functional.cross_entropy(plain_logits(plain, inputs, ids), ids, reduction="sum")
        total = total + WEIGHTS[row] * loss
        weights += WEIGHTS[row] * len(ids)
    (total / weights).backward()
    found = added_up(model, task, [batch], micro)
    assert float(found) == pytest.approx(float(total.detach() / weights), abs=1e-10)
    check_gradients(model, plain, plan.names)


@pytest.mark.parametrize("kind", WHOLE_MODELS)
def test_pixels_and_layers(kind: str, whole_folder: Folder, shapes: Any) -> None:
    model, task, _ = make(whole_folder(kind), shapes)
    batch = rows(model, task)
    assert batch.pixel_values is not None
    images = [image.permute(1, 2, 0).numpy() for image in batch.pixel_values[:1]]
    wanted = model.whole.processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
    found = model.whole.pixels.arranged(model.image_encoder.normalise(batch.pixel_values[:1]))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert model.text_encoder.top_layer == 3
    assert model.image_encoder.top_layer == (9 if kind == "qwen3_vl" else 4)


@pytest.mark.parametrize("kind", WHOLE_MODELS)
def test_put_together_it_is_the_same_model(kind: str, whole_folder: Folder, shapes: Any) -> None:
    model, _, _ = make(whole_folder(kind), shapes)
    again = put_together(model.whole, {name: part.state_dict() for name, part in model.parts().items()}).state_dict()
    plain = hf.AutoModelForImageTextToText.from_pretrained(whole_folder(kind)).state_dict()
    assert again.keys() == plain.keys()
    assert all(torch.equal(again[name], value) for name, value in plain.items())


@pytest.mark.parametrize(("kind", "size", "tokens"), [("qwen2_5_vl", 32, 4), ("smolvlm", 48, 9), ("internvl", 48, 9)])
def test_another_image_size(kind: str, size: int, tokens: int, whole_folder: Folder, shapes: Any) -> None:
    model, task, _ = make(whole_folder(kind), shapes, f"model.image_encoder.image_size={size}")
    assert (model.image_encoder.image_size, model.image_tokens) == (size, tokens)
    batch = rows(model, task)
    inputs = plain_inputs(model, batch, 0)
    ids = torch.tensor(task.tokenizer.answer(ANSWERS[0]))
    plain = plain_model(whole_folder(kind), size)
    with torch.no_grad():
        found = model.eval()(batch).logits[0, : len(ids)]
        wanted = plain_logits(plain, inputs, ids).log_softmax(-1)[range(len(ids)), ids]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "size", "expected"),
    [
        ("internvl", 35, r"image_size=35: .* does not read the last rows and columns of such an image"),
        ("qwen2_5_vl", 36, r"with model.image_encoder.image_size=36: its image processor changes images of 36 x 36"),
        ("llava", 48, r"it does not take images of 48 x 48 pixels: "),
        ("paligemma", 48, r"it does not take images of 48 x 48 pixels: "),
        ("gemma3", 48, r"it does not take images of 48 x 48 pixels: "),
    ],
)
def test_an_image_size_that_does_not_fit(
    kind: str, size: int, expected: str, whole_folder: Folder, shapes: Any
) -> None:
    with pytest.raises(UserError, match=expected):
        make(whole_folder(kind), shapes, f"model.image_encoder.image_size={size}")


def test_what_is_no_whole_model_is_an_error(shapes: Any, whole_folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model.whole=.*: bert is not a whole vision-language model. Name its parts"):
        make(shapes.text_encoder, shapes)
    incomplete = tmp_path / "llava"
    incomplete.mkdir()
    for file in whole_folder("llava").iterdir():
        if file.name != "processor_config.json":
            (incomplete / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=r"model.whole=.*llava: "):
        make(incomplete, shapes)


@pytest.mark.parametrize("method", ["bitfit", "norms", "lora", "adapters", "prefix"])
def test_whatever_is_planned_gets_a_gradient(method: str, whole_folder: Folder, shapes: Any) -> None:
    """Also where no layer is trained wholly; nothing is added to LLaVA's last vision block, which is not read."""
    model, task, config = make(whole_folder("llava"), shapes, f"tune/image_encoder={method}", "optim.lr=null")
    plan = build.build_plan(config, model)
    batch = rows(model, task)
    task.loss_sum(model.train()(batch), batch).backward()
    without = {name for name in plan.names if model.get_parameter(name).grad is None}
    assert without <= {"missing_image.vector"}


@pytest.mark.parametrize(
    "kind", [kind if kind == "idefics3" else pytest.param(kind, marks=pytest.mark.slow) for kind in WHOLE_MODELS]
)
def test_frozen_layers_in_16_bits_compute_the_same(
    kind: str, shapes: Any, whole_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / kind
    model: Any = hf.AutoModelForImageTextToText.from_pretrained(whole_folder(kind), dtype=torch.bfloat16)
    hf.AutoProcessor.from_pretrained(whole_folder(kind)).save_pretrained(folder)
    model.save_pretrained(folder)
    frozen = dict.fromkeys(("image_encoder", "text_encoder"), FrozenLayers())
    wide, task, _ = make(folder, shapes)
    plain = build.build_model
    monkeypatch.setattr(build, "build_model", lambda *given, **more: plain(*given, **more, frozen=frozen))
    narrow, _, _ = make(folder, shapes)
    for encoder in (narrow.image_encoder, narrow.text_encoder):
        assert any(p.dtype == torch.bfloat16 for p in encoder.parameters())
    assert {p.dtype for p in narrow.fusion.parameters()} <= {torch.float32}
    batch = rows(wide, task)
    with torch.no_grad():
        assert torch.equal(*(task.loss_sum(one.eval()(batch), batch) for one in (wide, narrow)))
