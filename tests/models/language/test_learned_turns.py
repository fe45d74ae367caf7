"""Conversations: every turn of the assistant is learned, as plain transformers would with labels at their tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from generative_rows import LAST_ANSWERS, added_up, conversations
from language_models import LANGUAGE_MODELS, write_language_model
from make_shapes import LABELS, captions
from torch import Tensor
from torch.nn import functional

from mmft import build
from mmft.batch import Batch
from mmft.config.compose import compose
from mmft.models.language.prompt_tokenizer import IMAGE_MARK, learned
from mmft.tasks.generation import Generation

CONVERSATIONS = conversations("something red")


@pytest.fixture(scope="module", params=LANGUAGE_MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = [*captions(), *LABELS, "what is it"]
    return write_language_model(request.param, words, tmp_path_factory.mktemp("lm") / request.param, chat=True)


def made(folder: Path, shapes: Any, *more: str) -> tuple[Any, Generation, Batch]:
    """A model in float64, its task, and a batch; the second row has no image."""
    typed = [*shapes.overrides, "task=generation", "model/fusion=projector", f"model.text_encoder.name={folder}"]
    typed += ["data.columns.text=null", "data.columns.label=null", "data.columns.messages=messages"]
    config: Any = compose("train", [*typed, "task.max_answer_tokens=8", "model.dropout=0", *more]).config
    task: Any = build.build_task(config.task)
    model = build.build_model(config.model, task.make_head, seed=0).double().train()
    build.prepare_generation(model, task)
    torch.nn.init.normal_(model.missing_image.vector)
    prompts = task.tokenizer(CONVERSATIONS)["input_ids"]
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    rows, length = len(prompts), int(lengths.max())
    generator = torch.Generator().manual_seed(0)
    return (
        model,
        task,
        Batch(
            pixel_values=torch.randint(0, 256, (rows, 3, 32, 32), dtype=torch.uint8, generator=generator),
            input_ids=torch.tensor([prompt + [0] * (length - len(prompt)) for prompt in prompts]),
            attention_mask=torch.arange(length) < lengths[:, None],
            image_present=torch.tensor([True, False, True, True]),
            text_present=torch.ones(rows, dtype=torch.bool),
            row=torch.arange(rows),
            weight=torch.tensor([1.0, 2.0, 1.0, 0.5]),
            target=torch.tensor([task.encode(answer) for answer in LAST_ANSWERS]),
        ),
    )


def plain_sums(model: Any, task: Generation, batch: Batch) -> list[tuple[Tensor, int]]:
    """Of each row, by transformers' own forward: the loss of what is learned, summed, and the number of its tokens."""
    found = []
    for row, (turns, answer) in enumerate(zip(CONVERSATIONS, LAST_ANSWERS, strict=True)):
        given = task.tokenizer([turns])["input_ids"][0] + [learned(token) for token in task.tokenizer.answer(answer)]
        assert batch.pixel_values is not None
        image = model.missing_image.vector[None]
        if batch.image_present[row]:
            image = model.fusion(model.image_encoder(batch.pixel_values[row : row + 1]))[0]
        parts, labels = [], []
        for token in given:
            plain = torch.tensor([learned(token) if token < IMAGE_MARK else max(token, 0)])
            parts.append(image if token == IMAGE_MARK else model.text_encoder.embed(plain))
            labels += [-100] * (len(image) - 1) if token == IMAGE_MARK else []
            labels.append(int(plain) if token < IMAGE_MARK else -100)
        logits = model.text_encoder.backbone(inputs_embeds=torch.cat(parts)[None], use_cache=False).logits[0]
        wanted = torch.tensor(labels[1:])
        found.append((functional.cross_entropy(logits[:-1], wanted, reduction="sum"), int((wanted >= 0).sum())))
    return found


@pytest.mark.parametrize("micro", [None, 3, 1])
@pytest.mark.parametrize("normalise", ["tokens", "rows"])
def test_loss_and_gradients_are_those_of_plain_transformers(
    folder: Path, shapes: Any, micro: int | None, normalise: str
) -> None:
    model, task, batch = made(folder, shapes, f"task.normalise={normalise}")
    weight = batch.weight.double().tolist()
    rows = plain_sums(model, task, batch)
    if normalise == "rows":
        wanted = sum(w * loss / count for w, (loss, count) in zip(weight, rows, strict=True)) / sum(weight)
    else:
        total = sum(w * count for w, (_, count) in zip(weight, rows, strict=True))
        wanted = sum(w * loss for w, (loss, _) in zip(weight, rows, strict=True)) / total
    torch.as_tensor(wanted).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss = added_up(model, task, [batch], micro)
    assert float(loss) == pytest.approx(float(torch.as_tensor(wanted).detach()), abs=1e-10)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == gradients.keys()
    assert max(float((found[name] - gradients[name]).abs().max()) for name in found) < 1e-10


def test_earlier_answers_count_in_the_perplexity(folder: Path, shapes: Any) -> None:
    model, task, batch = made(folder, shapes)
    metrics = task.metrics()
    with torch.no_grad():
        task.update(metrics, model.eval()(batch), batch)
        rows = plain_sums(model, task, batch)
    mean = sum(float(loss) for loss, _ in rows) / sum(count for _, count in rows)
    assert task.scalars(metrics)["perplexity"] == pytest.approx(float(torch.tensor(mean).exp()), rel=1e-5)


def test_without_its_text_a_row_learns_the_answer_alone(folder: Path, shapes: Any) -> None:
    """As in the comparison of modalities, which leaves the tokens of texts in their place."""
    model, task, batch = made(folder, shapes)
    assert batch.target is not None
    batch.text_present[:] = False
    assert float(task.normaliser(batch)) == float((batch.weight * (batch.target >= 0).sum(1)).sum())
    assert model(batch).logits.shape == batch.target.shape
