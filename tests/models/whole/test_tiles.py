"""`model.tiles` against plain transformers with the model's own processor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers as hf
from generative_rows import added_up
from tiled_rows import TILED, pictures, plain_tiled_inputs, tiled_rows
from torch import Tensor
from torch.nn import functional
from whole_rows import ANSWERS, LENGTH, WEIGHTS, Folder, check_gradients, make, plain_logits

from mmft import build
from mmft.errors import UserError
from mmft.training.token_budget import divided


@pytest.mark.parametrize("kind", TILED)
def test_tokens_logits_and_texts_are_those_of_plain_transformers(kind: str, whole_folder: Folder, shapes: Any) -> None:
    """Seven images of seven proportions, in one batch."""
    model, task, _ = make(whole_folder(kind), shapes, "model.tiles=true")
    batch = tiled_rows(model, task)
    assert batch.images is not None
    assert batch.input_ids is not None
    assert batch.attention_mask is not None
    plain = hf.AutoModelForImageTextToText.from_pretrained(whole_folder(kind)).eval()
    counts = set()
    with torch.no_grad():
        found = model.eval()(batch)
        for row, (answer, image) in enumerate(zip(ANSWERS, pictures(), strict=True)):
            inputs = plain_tiled_inputs(model, row, image)
            own = batch.input_ids[row][batch.attention_mask[row]]
            assert own.where(own >= 0, model.whole.image_token).tolist() == inputs["input_ids"][0].tolist()
            counts.add(int((own < 0).sum()))
            ids = torch.tensor(task.tokenizer.answer(answer))
            wanted = plain_logits(plain, inputs, ids).log_softmax(-1)[range(len(ids)), ids]
            torch.testing.assert_close(found.logits[row, : len(ids)], wanted, atol=1e-5, rtol=1e-5)
            ending: dict[str, Any] = {"eos_token_id": task.tokenizer.eos_token_id, "pad_token_id": 1}
            ending["suppress_tokens"] = model.text_encoder.never_written  # it stands for an image
            texts = plain.generate(**inputs, max_new_tokens=LENGTH, do_sample=False, **ending)[0].tolist()
            tokens = [token for token in found.generated[row].tolist() if token >= 0]
            assert tokens == texts[inputs["input_ids"].shape[1] :][: len(tokens)]
    assert len(counts) > 3


@pytest.mark.parametrize("kind", TILED)
def test_a_row_alone_is_the_row_in_a_batch(kind: str, whole_folder: Folder, shapes: Any) -> None:
    model, task, _ = make(whole_folder(kind), shapes, "model.tiles=true")
    images: list[Any] = pictures()
    images[4] = None
    batch = tiled_rows(model, task, images)
    assert batch.image_present.tolist() == [row != 4 for row in range(7)]
    torch.nn.init.normal_(model.missing_image.vector)
    with torch.no_grad():
        together = model.eval()(batch)
        flipped = tiled_rows(model, task, [image if image is None else image[::-1].copy() for image in images])
        assert float((model.score(flipped).logits - together.logits).abs().amax(1).median()) > 1e-4  # they matter
        for row, part in enumerate(batch.split(1)):
            alone = model(part)
            torch.testing.assert_close(alone.logits, together.logits[row : row + 1], atol=2e-6, rtol=0)
            assert torch.equal(alone.generated, together.generated[row : row + 1, : alone.generated.shape[1]])


@pytest.mark.parametrize("kind", ["llava", "paligemma", "gemma3", "blip_2"])
def test_a_processor_that_does_not_cut_is_refused(kind: str, whole_folder: Folder, shapes: Any) -> None:
    with pytest.raises(UserError, match=r"model.tiles=true changes nothing with model.whole=.*makes one square of any"):
        make(whole_folder(kind), shapes, "model.tiles=true")


@pytest.mark.parametrize("micro", [None, 7, 1])
@pytest.mark.parametrize("kind", ["smolvlm", "llava_next", "qwen2_5_vl", "internvl"])
def test_loss_and_gradients_are_those_of_plain_transformers(
    kind: str, micro: int | None, whole_folder: Folder, shapes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tensor, "float", Tensor.double)  # rotary angles are computed in float32 otherwise
    model, task, config = make(whole_folder(kind), shapes, "model.tiles=true", "tune=full")
    plan = build.build_plan(config, model)
    model.double().train()
    batch = tiled_rows(model, task)
    plain = hf.AutoModelForImageTextToText.from_pretrained(whole_folder(kind)).double().train()
    tiles, encoder = model.whole.tiles, model.image_encoder
    assert tiles is not None
    total, weights = torch.zeros((), dtype=torch.float64), 0.0
    for row, (answer, image) in enumerate(zip(ANSWERS, pictures(), strict=True)):
        inputs, cut = plain_tiled_inputs(model, row, image), tiles.cut(image)
        normalised = tiles.normalised(cut.values, encoder.get_buffer("mean"), encoder.get_buffer("std"))
        inputs["pixel_values"] = tiles.arguments(normalised, cut.about)["pixel_values"]  # in float64
        ids = torch.tensor(task.tokenizer.answer(answer))
        loss = functional.cross_entropy(plain_logits(plain, inputs, ids), ids, reduction="sum")
        total = total + WEIGHTS[row] * loss
        weights += WEIGHTS[row] * len(ids)
    (total / weights).backward()
    found = added_up(model, task, [batch], micro)
    assert float(found) == pytest.approx(float(total.detach() / weights), abs=1e-10)
    check_gradients(model, plain, plan.names)


@pytest.mark.parametrize("kind", TILED)
def test_packed_rows_are_the_rows_alone(
    kind: str, whole_folder: Folder, shapes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and every gradient, with micro-batches of any number of tokens; some rows lack an image or a text."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    images: list[Any] = pictures()
    images[4] = None
    found = []
    for packing in (False, True):
        model, task, _ = make(whole_folder(kind), shapes, "model.tiles=true", f"task.packing={packing}", "tune=full")
        torch.nn.init.normal_(model.missing_image.vector, generator=torch.Generator().manual_seed(0))
        model.double().train()
        batch = tiled_rows(model, task, images)
        batch = replace(batch, text_present=torch.arange(7) != 2)
        batch, sizes = divided(batch, None, 150 if packing else None, model)
        assert len(list(batch.split(sizes))) == (1 if not packing else len(sizes))
        loss = added_up(model, task, [batch], sizes)
        found.append((loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (padded, wanted), (packed, theirs) = found
    assert float(packed) == pytest.approx(float(padded), abs=1e-10)
    assert wanted.keys() == theirs.keys()
    assert all(float((theirs[name] - gradient).abs().max()) < 1e-10 for name, gradient in wanted.items())


@pytest.mark.parametrize("kind", TILED)
def test_tokens_are_counted_as_they_are(kind: str, whole_folder: Folder, shapes: Any) -> None:
    model, task, _ = make(whole_folder(kind), shapes, "model.tiles=true")
    batch = tiled_rows(model, task)
    with torch.no_grad():
        rows = model._joined(batch, model.project_image(batch), batch.target)
    assert model.sequence_lengths(batch).tolist() == rows.mask.sum(1).tolist()
