"""Answers of a list, and what supports an answer, in whole vision-language models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from generative_rows import added_up
from torch import Tensor
from whole_models import WHOLE_MODELS
from whole_rows import TEXTS, Folder, make, plain_inputs, plain_logits, plain_model, rows

from mmft.batch import Outputs
from mmft.errors import UserError
from mmft.models.attribution import Baseline, integrated_gradients

PACKING = "task.packing=true"
MIXES_ROWS = ["blip_2", "gemma3"]  # OPT counts positions on; in windows, Gemma 3 looks for images at a row's positions
APART = [kind for kind in WHOLE_MODELS if kind not in MIXES_ROWS]
CHOICES = ["red disc", "blue", "a green cross here", "it"]


@pytest.mark.parametrize("kind", WHOLE_MODELS)
def test_choices_are_as_likely_as_by_plain_transformers(kind: str, whole_folder: Folder, shapes: Any) -> None:
    """Each answer behind each prompt, as one sequence without a cache."""
    model, task, _ = make(whole_folder(kind), shapes, f"task.choices={CHOICES}".replace("'", ""))
    batch = rows(model, task)
    plain = plain_model(whole_folder(kind), model.image_encoder.image_size)
    with torch.no_grad():
        found = model.eval()(batch)
        assert found.choices is not None
        for row in range(len(TEXTS)):
            inputs = plain_inputs(model, batch, row)
            for column, answer in enumerate(CHOICES):
                ids = torch.tensor(task.tokenizer.answer(answer))
                wanted = plain_logits(plain, inputs, ids).log_softmax(-1)[range(len(ids)), ids].sum()
                torch.testing.assert_close(found.choices[row, column], wanted, atol=1e-5, rtol=1e-5)
    assert [answer["prediction"] for answer in task.answers(found)] == [CHOICES[i] for i in found.choices.argmax(1)]


@pytest.mark.parametrize("kind", WHOLE_MODELS)
def test_choices_of_a_row_alone(kind: str, whole_folder: Folder, shapes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One prompt and one answer in memory at once; a row without an image, and one without a text."""
    model, task, _ = make(whole_folder(kind), shapes, f"task.choices={CHOICES}".replace("'", ""))
    batch = rows(model, task)
    batch.image_present[4] = batch.text_present[5] = False
    torch.nn.init.normal_(model.missing_image.vector)
    with torch.no_grad():
        together = model.eval()(batch).choices
        monkeypatch.setattr("mmft.models.language.generative_model._CACHED", 1)
        alone = torch.cat([model(part).choices for part in batch.split(1)])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
    assert float(together.std(0).min()) > 1e-3  # prompts matter


@pytest.mark.parametrize(
    ("kind", "packing"), [*((kind, False) for kind in WHOLE_MODELS), *((kind, True) for kind in APART)]
)
def test_what_image_and_words_contribute_adds_up(kind: str, packing: bool, whole_folder: Folder, shapes: Any) -> None:
    """To the log-probability of an answer, less that of a grey image with other words."""
    model, task, _ = make(whole_folder(kind), shapes, f"task.packing={packing}")
    model.double().eval()
    (batch, *_) = rows(model, task).split(1)
    assert batch.pixel_values is not None
    assert batch.input_ids is not None
    end = len(task.tokenizer(TEXTS[:1])["input_ids"][0])
    baseline = batch.input_ids[0].clone()
    baseline[end - 1] = 7

    def value(outputs: Outputs) -> Tensor:
        return outputs.logits.sum(1)

    found = integrated_gradients(model, batch, value, Baseline((128, 128, 128), baseline), points=64, at_once=32)
    grey = torch.full_like(batch.pixel_values, 128)
    with torch.no_grad():
        assert found.value == pytest.approx(float(value(model.score(batch))), abs=1e-9)
        nothing = replace(batch, pixel_values=grey, input_ids=baseline[None])
        assert found.baseline == pytest.approx(float(value(model.score(nothing))), abs=1e-9)
    assert found.image is not None
    assert found.text is not None
    assert abs(found.missed) < 0.01 * float(found.image.abs().sum() + found.text.abs().sum())
    assert found.image.any()
    assert found.text.nonzero().flatten().tolist() == [end - 1]
    assert not model.text_encoder.backbone.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize("kind", APART)
def test_packed_rows_are_the_rows_of_a_padded_batch(
    kind: str, whole_folder: Folder, shapes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and every gradient in float64, with micro-batches of 7 rows, 3 and 1."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # Gemma's norms are computed in float32 otherwise
    found: dict[Any, Any] = {}
    for more in ([], [PACKING]):
        model, task, _ = make(whole_folder(kind), shapes, "tune=full", *more)
        assert model.text_encoder.packs == bool(more)
        model.double().train()
        torch.nn.init.constant_(model.missing_image.vector, 0.3)
        batch = rows(model, task)
        batch.image_present[4] = batch.text_present[5] = False
        for micro in (7, 3, 1) if more else (None,):
            model.zero_grad()
            loss = added_up(model, task, [batch], micro)
            found[micro] = float(loss), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    wanted_loss, wanted = found.pop(None)
    for loss, gradients in found.values():
        assert loss == pytest.approx(wanted_loss, abs=1e-10)
        assert gradients.keys() == wanted.keys()
        assert max(float((gradients[name] - wanted[name]).abs().max()) for name in wanted) < 1e-10


def test_packed_rows_are_few_sequences_without_padding(whole_folder: Folder, shapes: Any) -> None:
    model, task, _ = make(whole_folder("qwen2_5_vl"), shapes, PACKING)
    read: list[torch.Size] = []
    text = model.text_encoder
    text.reader(text.backbone).layers[0].register_forward_pre_hook(lambda _, given: read.append(given[0].shape))
    batch = rows(model, task)
    batch.image_present[4] = batch.text_present[5] = False
    model(batch)
    tokens = int(model.sequence_lengths(batch).sum())
    assert read == [(1, tokens, 32)]


@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl", "paligemma"])
def test_what_cannot_keep_rows_apart_is_refused(
    kind: str, whole_folder: Folder, shapes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is measured: as if transformers did not find out which tokens belong together."""
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda _: None)
    with pytest.raises(
        UserError, match=r"task\.packing=true: \w+ \(model\.whole=.*\) does not keep rows apart .* change by"
    ):
        make(whole_folder(kind), shapes, PACKING)


@pytest.mark.parametrize("kind", MIXES_ROWS)
def test_what_mixes_rows_is_refused(kind: str, whole_folder: Folder, shapes: Any) -> None:
    with pytest.raises(
        UserError, match=r"task\.packing=true: \w+ \(model\.whole=.*\) does not keep rows apart .* change by .*\. Type"
    ):
        make(whole_folder(kind), shapes, PACKING)
