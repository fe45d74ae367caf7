"""Rows that are packed into one sequence are the rows that they are alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from generative_rows import added_up, made, plain_loss, rows_of_all_lengths
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.models.language.packing import first_fit, plan_packing

Folder = Callable[..., Path]
PACKING = "task.packing=true"


def test_every_row_is_in_one_sequence_and_none_is_too_long() -> None:
    for seed in range(200):
        draw = random.Random(seed)
        lengths = [draw.randint(1, 40) for _ in range(draw.randint(1, 30))]
        sequences = first_fit(lengths, 40)
        assert sorted(row for rows in sequences for row in rows) == list(range(len(lengths)))
        filled = [sum(lengths[row] for row in rows) for rows in sequences]
        assert max(filled) <= 40
        assert sum(2 * size <= 40 for size in filled) <= 1  # else two of them would have gone together


@pytest.mark.parametrize("longest", [5, 16, 10_000])
def test_tokens_keep_their_order_and_come_back_to_their_places(longest: int) -> None:
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 1, 1, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    rows = torch.arange(20.0).view(4, 5, 1)
    packing = plan_packing(mask, longest)
    assert packing.source.shape[1] <= longest
    packed = packing.pack(rows)
    found = packing.unpack(packed, like=rows)
    assert torch.equal(found, rows * mask[..., None])
    real = packing.source >= 0
    begins = (packing.positions == 0) & real
    assert packed[begins].flatten().tolist().count(0.0) == 1
    assert sorted(packed[begins].flatten().tolist()) == [0, 5, 11, 15]
    follows = real[:, 1:] & (packing.positions[:, 1:] > 0)
    assert (packing.positions[:, 1:] - packing.positions[:, :-1])[follows].unique().tolist() == [1]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3", "gemma3"])
def test_loss_and_gradients_are_those_of_one_padded_batch(
    kind: str, shapes: Any, language_model_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Micro-batches of 7 rows and of one, and the shares of two ranks."""
    # Gemma's norm computes in float32 whatever it is given.
    monkeypatch.setattr(Gemma3RMSNorm, "forward", lambda norm, x: norm._norm(x) * (1 + norm.weight))
    model, task, _ = made(language_model_folder(kind), shapes, PACKING)
    assert model.text_encoder.packs
    model.double().train()
    batch = rows_of_all_lengths(model, task)
    wanted_loss = plain_loss(model, batch)
    wanted_loss.backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for shares in ([batch], [batch.take(torch.arange(rank, len(batch), 2)) for rank in (0, 1)]):
        for micro in (None, 7, 1):
            model.zero_grad()
            loss = added_up(model, task, shares, micro)
            assert float(loss) == pytest.approx(float(wanted_loss.detach()), abs=1e-10)
            found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            assert found.keys() == wanted.keys()
            assert max(float((found[name] - wanted[name]).abs().max()) for name in found) < 1e-10


def test_a_row_alone_is_the_row_packed(shapes: Any, language_model_folder: Folder) -> None:
    model, task, _ = made(language_model_folder("gemma3"), shapes, PACKING)
    batch = rows_of_all_lengths(model, task)
    with torch.no_grad():
        together = model.train()(batch).logits
        alone = torch.cat([model(part).logits for part in batch.split(1)])
        model.text_encoder.packs = False
        padded = model(batch).logits
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(together, padded, atol=1e-6, rtol=1e-6)


def test_the_model_reads_less_padding(shapes: Any, language_model_folder: Folder) -> None:
    read: list[torch.Size] = []
    for packing in (False, True):
        model, task, _ = made(language_model_folder("llama"), shapes, f"task.packing={packing}")
        text = model.text_encoder
        text.backbone.model.layers[0].register_forward_pre_hook(lambda _, given: read.append(given[0].shape))
        batch = rows_of_all_lengths(model, task)
        model.train()(batch)
    padded, packed = read
    tokens = int(model.sequence_lengths(batch).sum())
    assert tokens < packed[0] * packed[1] < 1.1 * tokens < padded[0] * padded[1]
    assert packed[1] <= model.text_encoder.positions


@pytest.mark.parametrize("kind", ["opt", "bloom", "mamba"])
def test_models_that_cannot_keep_rows_apart_are_refused(kind: str, shapes: Any, language_model_folder: Folder) -> None:
    with pytest.raises(UserError, match=r"task\.packing=true: \w+ForCausalLM .* does not keep rows apart .*\. Type"):
        made(language_model_folder(kind), shapes, PACKING)
    model, *_ = made(language_model_folder(kind), shapes)
    assert not model.text_encoder.packs


def test_label_smoothing_is_for_training_alone(shapes: Any, language_model_folder: Folder) -> None:
    folder = language_model_folder("llama")
    model, task, _ = made(folder, shapes, "task.label_smoothing=0.1")
    plain, *_ = made(folder, shapes)
    batch = rows_of_all_lengths(model, task)
    assert batch.target is not None
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(batch).logits, plain.eval()(batch).logits)
        whole = plain._joined(batch, plain.project_image(batch), batch.target)
        logits = plain.text_encoder.backbone(**whole.inputs, attention_mask=whole.mask.long()).logits
        row, place = (batch.target >= 0).nonzero(as_tuple=True)
        wanted = torch.nn.functional.cross_entropy(
            logits[row, whole.prompt_length[row] + place - 1],
            batch.target[row, place],
            reduction="none",
            label_smoothing=0.1,
        )
        torch.testing.assert_close(-model.train()(batch).logits[row, place], wanted)


def test_prompts_of_a_sequence_do_not_go_with_packing(shapes: Any) -> None:
    typed = [*shapes.overrides, "task=generation", "model/fusion=projector", PACKING, "tune/text_encoder=prefix"]
    with pytest.raises(UserError) as error:
        compose("train", typed)
    assert any("adds tokens to a sequence" in told for told in error.value.messages)
