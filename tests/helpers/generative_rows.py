"""A tiny generative model, and rows of different lengths for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from make_shapes import LABELS, captions
from runs import QUICK
from torch import Tensor
from torch.nn import functional

from mmft import build
from mmft.batch import Batch, Conversation, Turn
from mmft.config.compose import compose
from mmft.training.accumulation import accumulate
from mmft.training.objective import Objective

WORDS = [*captions(), *LABELS, "what is it"]
LAST_ANSWERS = ["red disc", "blue cross", "a disc", "green disc here"]
"""To `conversations`."""


def conversations(asked: str) -> list[Conversation]:
    """Four, with earlier answers and without; `asked` is what the user says first in the last one."""
    return [
        (Turn("user", "is it red"), Turn("assistant", "red disc"), Turn("user", "drawn in blue")),
        (Turn("user", "is it green?"),),
        (
            Turn("user", "red"),
            Turn("assistant", "it"),
            Turn("user", "a <image> study"),
            Turn("assistant", "blue"),
            Turn("user", "yes"),
        ),
        (Turn("system", "a small study"), Turn("user", asked), Turn("assistant", "red"), Turn("user", "is it")),
    ]


def typed_for_generation(shapes: Any, folder: Path) -> list[str]:
    """Overrides of a quick run of `task=generation` on the sample, with the language model in `folder`."""
    return [
        *shapes.overrides,
        *QUICK,
        "task=generation",
        "task.prompt='{text} here'",
        "task.max_answer_tokens=8",
        "model/fusion=projector",
        "model.fusion.tokens=pooled",
        f"model.text_encoder.name={folder}",
        "model.text_encoder.max_length=64",
        "tune/image_encoder=freeze",
        "optim.lr=null",
    ]


def with_gaps(shapes: Any) -> pd.DataFrame:
    """The sample, of which a training row lacks its image and another one its text."""
    frame = pd.read_csv(shapes.rows)
    of_train = frame.index[frame["split"] == "train"]
    frame.loc[of_train[1], "image"] = None
    frame.loc[of_train[2], "text"] = None
    return frame


def made(folder: Path, shapes: Any, *overrides: str) -> tuple[Any, Any, Any]:
    """Model, task and config of a run with the language model in `folder`, dropout off."""
    typed = [*shapes.overrides, "task=generation", "model/fusion=projector", f"model.text_encoder.name={folder}"]
    config: Any = compose("train", [*typed, "task.max_answer_tokens=12", "model.dropout=0", *overrides]).config
    task: Any = build.build_task(config.task)
    model: Any = build.build_model(config.model, task.make_head, seed=0)
    build.prepare_generation(model, task)
    torch.nn.init.normal_(model.missing_image.vector)
    return model, task, config


def rows_of_all_lengths(model: Any, task: Any, count: int = 15) -> Batch:
    """Rows whose prompts and answers differ in length; every fifth has no image, every fourth no text."""
    generator = torch.Generator().manual_seed(0)
    tokenizer: Any = model.text_encoder.tokenizer
    there = torch.arange(count)
    texts = ["" if row % 4 == 3 else " ".join(WORDS[: 1 + 3 * row % 7]) for row in range(count)]
    answers = [" ".join(["red disc"] * (1 + row % 3) + ["blue"] * (row % 2)) for row in range(count)]
    ids = tokenizer(texts, truncation=True, max_length=32)["input_ids"]
    lengths = torch.tensor([len(own) for own in ids])
    longest = int(lengths.max())
    return Batch(
        pixel_values=torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator),
        input_ids=torch.tensor([own + [0] * (longest - len(own)) for own in ids]),
        attention_mask=torch.arange(longest) < lengths[:, None],
        image_present=there % 5 != 2,
        text_present=there % 4 != 3,
        row=there,
        weight=torch.linspace(0.5, 2, count),
        target=torch.tensor([task.encode(answer) for answer in answers]),
    )


def plain_loss(model: Any, batch: Batch) -> Tensor:
    """The loss by transformers' own forward on one padded batch, from its full logits."""
    assert batch.target is not None
    whole = model._joined(batch, model.project_image(batch), batch.target)
    logits = model.text_encoder.backbone(**whole.inputs, attention_mask=whole.mask.long(), use_cache=False).logits
    row, place = (batch.target >= 0).nonzero(as_tuple=True)
    of_answers = logits[row, whole.prompt_length[row] + place - 1]
    losses = functional.cross_entropy(of_answers, batch.target[row, place], reduction="none")
    weights = batch.weight[row].to(losses)
    return (weights * losses).sum() / weights.sum()


def added_up(model: Any, task: Any, shares: list[Batch], micro: Any) -> Tensor:
    """The loss of the logical batch that the shares of several ranks are; adds its gradient to `.grad`."""
    objective = Objective(task)
    weight = torch.stack([objective.normalisers(share) for share in shares]).sum(0)
    losses = [
        accumulate(
            share,
            micro(share) if callable(micro) else micro,
            weight,
            lambda part: objective.sums(model(part), part),
            objective.weigh,
            lambda value: value.backward(),
            lambda _: None,
        )
        for share in shares
    ]
    return torch.stack(losses).sum(0)
