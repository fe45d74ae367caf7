"""Rows of a tiny vision-language model, and what plain transformers with the model's own processor makes of them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor

from mmft import build
from mmft.batch import Batch
from mmft.config.compose import compose
from mmft.models.whole.model import WholeModel
from mmft.tasks.generation import Generation

Folder = Callable[[str], Path]
TEXTS = ["red", "drawn in blue ink", "is it green? yes", "red", "a small study of blue", "something red here", "it"]
ANSWERS = ["red disc", "blue cross", "a disc", "green disc", "it", "blue", "red cross here yes"]
WEIGHTS = [1.0, 2.0, 1.0, 0.5, 1.0, 1.0, 3.0]
LENGTH = 12


def make(folder: Path, shapes: Any, *overrides: str) -> tuple[WholeModel, Generation, Any]:
    """Model, task and config of a run with the model in `folder`, dropout off."""
    own = [one for one in shapes.overrides if not one.startswith("model.")]
    typed = [*own, "task=generation", f"model.whole={folder}", f"task.max_answer_tokens={LENGTH}", "model.dropout=0"]
    config: Any = compose("train", [*typed, *overrides]).config
    task: Any = build.build_task(config.task)
    model: Any = build.build_model(config.model, task.make_head, seed=0)
    build.prepare_generation(model, task)
    return model, task, config


def rows(model: WholeModel, task: Generation) -> Batch:
    """Seven rows with image, question and answer."""
    tokenizer: Any = model.text_encoder.tokenizer
    side = model.image_encoder.image_size
    ids = tokenizer(TEXTS)["input_ids"]
    length = max(map(len, ids))
    there = torch.ones(len(TEXTS), dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    return Batch(
        pixel_values=torch.randint(0, 256, (len(TEXTS), 3, side, side), dtype=torch.uint8, generator=generator),
        input_ids=torch.tensor([own + [0] * (length - len(own)) for own in ids]),
        attention_mask=torch.tensor([[True] * len(own) + [False] * (length - len(own)) for own in ids]),
        image_present=there,
        text_present=there.clone(),
        row=torch.arange(len(TEXTS)),
        weight=torch.tensor(WEIGHTS),
        target=torch.tensor([task.encode(answer) for answer in ANSWERS]),
    )


def plain_inputs(model: WholeModel, batch: Batch, row: int) -> dict[str, Any]:
    """What the model's own processor makes of a row's image and question."""
    processor = model.whole.processor
    assert batch.pixel_values is not None
    if processor.chat_template:
        content = [{"type": "image"}, {"type": "text", "text": TEXTS[row]}]
        turn = {"role": "user", "content": content}
        text = processor.apply_chat_template([turn], add_generation_prompt=True)
    else:
        text = ("" if model.whole.source.name.endswith("blip_2") else processor.image_token) + TEXTS[row]
    special = {"add_special_tokens": False} if text.startswith(processor.tokenizer.bos_token) else {}
    image = batch.pixel_values[row].permute(1, 2, 0).numpy()
    found = processor(text=[text], images=[image], return_tensors="pt", **special)
    return {name: value for name, value in found.items() if name not in ("labels", "num_crops", "num_patches")}


def plain_logits(plain: Any, inputs: dict[str, Any], answer: Tensor) -> Tensor:
    """(A, V) at the positions that predict the answer (A,), by one forward of plain transformers."""
    whole = dict(inputs)
    length = inputs["input_ids"].shape[1]
    whole["input_ids"] = torch.cat([inputs["input_ids"], answer[None]], dim=1)
    whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    suffix = {"token_type_ids": int(plain.config.model_type == "paligemma"), "mm_token_type_ids": 0}
    for name in suffix.keys() & whole.keys():
        own = torch.full((1, len(answer)), suffix[name])
        whole[name] = torch.cat([inputs[name], own], dim=1)
    logits: Tensor = plain(**whole).logits[0, length - 1 : -1]
    return logits


def plain_model(folder: Path, side: int) -> Any:
    """The folder's model by plain transformers, with tiles of one image."""
    plain = hf.AutoModelForImageTextToText.from_pretrained(folder).eval()
    if hasattr(plain.config, "image_grid_pinpoints"):
        plain.config.image_grid_pinpoints = [[side, side]]
    return plain


def check_gradients(model: Any, plain: Any, trained: Collection[str]) -> None:
    """Asserts that every gradient is that of plain transformers within 1e-10, and that what has none is not trained."""
    wanted = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    names = {"image_encoder.backbone.": "image", "fusion.rest.": "rest", "text_encoder.backbone.": "text"}
    for name, parameter in model.named_parameters():
        if name == "missing_image.vector":
            continue
        start = next(start for start in names if name.startswith(start))
        theirs = wanted.pop(model.whole.prefixes[names[start]] + name.removeprefix(start), None)
        assert (theirs is None) == (name not in trained), name  # what gets no gradient is not trained
        if theirs is not None:
            assert parameter.grad is not None
            assert float((parameter.grad - theirs).abs().max()) < 1e-10, name
    assert not wanted
