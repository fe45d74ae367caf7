"""Tuning methods on a language model that reads images: the same texts with a cache as without, and recomputation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from make_shapes import Shapes
from torch import Tensor, nn

from mmft import build
from mmft.batch import Batch
from mmft.config.compose import compose
from mmft.config.schema.decoding import DecodingConfig
from mmft.models.language.decoding import Decoding
from mmft.models.recompute import recompute_blocks

Folder = Callable[..., Path]
TEXTS, ANSWERS = ["red", "drawn in blue ink", "something red here"], ["red disc", "it", "blue cross"]
LENGTH = 6
METHODS = {
    "full": [],
    "lora": [],
    "adapters": [],
    "prompt": [],
    "prompt_of_the_first_block": ["tune.text_encoder.deep=false"],
    "prefix": [],
    "gradual": ["tune.schedule={0:1,1:-1}"],
}


def tuned(kind: str, method: str, shapes: Shapes, folder: Folder) -> tuple[Any, Any, Batch]:
    """Model, task and three rows; whatever the method trains has random weights, so that all of it matters."""
    typed = [*shapes.overrides, "task=generation", "model/fusion=projector", "model.dropout=0", "optim.lr=1e-3"]
    typed += [f"model.text_encoder.name={folder(kind)}", "task.max_answer_tokens=8", "tune/image_encoder=freeze"]
    config: Any = compose("train", [*typed, f"tune/text_encoder={method.partition('_')[0]}", *METHODS[method]]).config
    task: Any = build.build_task(config.task)
    model = build.prepare_generation(build.build_model(config.model, task.make_head, 0), task)
    plan = build.build_plan(config, model)
    random = torch.Generator().manual_seed(1)
    for name in plan.names if method not in ("full", "gradual") else ():
        nn.init.normal_(model.get_parameter(name), std=0.3, generator=random)
    return model, task, rows_of(task, random)


def rows_of(task: Any, random: torch.Generator) -> Batch:
    """Prompts of other lengths, so that generation pads on the left."""
    ids = task.tokenizer(TEXTS)["input_ids"]
    longest = max(map(len, ids))
    there = torch.ones(len(ids), dtype=torch.bool)
    return Batch(
        pixel_values=torch.randint(0, 256, (len(ids), 3, 32, 32), dtype=torch.uint8, generator=random),
        input_ids=torch.tensor([own + [0] * (longest - len(own)) for own in ids]),
        attention_mask=torch.tensor([[True] * len(own) + [False] * (longest - len(own)) for own in ids]),
        image_present=there,
        text_present=there,
        row=torch.arange(len(ids)),
        weight=torch.ones(len(ids)),
        target=torch.tensor([task.encode(answer) for answer in ANSWERS]),
    )


@torch.no_grad()
def one_after_the_other(model: Any, batch: Batch) -> list[list[int]]:
    """Tokens of each row alone, where every step reads the whole row again, without a cache."""
    text, found = model.text_encoder, []
    for row in batch.split(1):
        ids = row.input_ids[:, : int(row.attention_mask.sum())]
        image = model.project_image(row).tokens
        at = int((ids[0] < 0).nonzero())
        read = torch.cat([text.embed(ids[:, :at]), image, text.embed(ids[:, at + 1 :])], dim=1)  # (1, S, D)
        tokens: list[int] = []
        while len(tokens) < LENGTH and text.tokenizer.eos_token_id not in tokens:
            hidden = text.hidden({"inputs_embeds": read}, torch.ones(read.shape[:2], dtype=torch.bool))
            tokens.append(int(text.head(hidden[0, -1]).argmax()))
            read = torch.cat([read, text.embed(torch.tensor([tokens[-1:]]))], dim=1)
        found.append(tokens)
    return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
def test_texts_are_the_same_with_a_cache_as_without(
    kind: str, method: str, shapes: Shapes, language_model_folder: Folder
) -> None:
    model, _, batch = tuned(kind, method, shapes, language_model_folder)
    model.double().eval().decoding = Decoding(DecodingConfig(max_new_tokens=LENGTH))
    with torch.no_grad():
        found = model(batch)
    texts = [[token for token in row if token >= 0] for row in found.generated.tolist()]
    assert texts == one_after_the_other(model, batch)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_recomputed_blocks_have_the_same_gradients(
    kind: str, method: str, shapes: Shapes, language_model_folder: Folder
) -> None:
    model, task, batch = tuned(kind, method, shapes, language_model_folder)

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        task.loss_sum(model.double().train()(batch), batch).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    wanted = gradients()
    assert any(name.startswith("text_encoder") for name in wanted)
    recompute_blocks(model)
    found = gradients()
    assert found.keys() == wanted.keys()
    assert max(float((found[name] - wanted[name]).abs().max()) for name in wanted) < 1e-12
