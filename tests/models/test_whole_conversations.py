"""Conversations read by whole vision-language models: tokens, loss and gradients of their own chat template."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from generative_rows import LAST_ANSWERS, added_up, conversations
from torch import Tensor
from torch.nn import functional
from whole_models import WHOLE_MODELS
from whole_rows import Folder, make, plain_model

from mmft.batch import IMAGE_PLACE, Batch, Conversation, Turn
from mmft.models.language.prompt_tokenizer import IMAGE_MARK, learned
from mmft.models.whole.model import WholeModel
from mmft.tasks.generation import Generation

CONVERSATIONS = conversations("red <image>")
WEIGHTS = [1.0, 2.0, 1.0, 0.5]
TYPED = ["data.columns.text=null", "data.columns.label=null", "data.columns.messages=messages"]
IN_CHAT = [kind for kind in WHOLE_MODELS if kind not in ("paligemma", "blip_2")]
REFUSED = ("gemma3", True)


def made(kind: str, whole_folder: Folder, shapes: Any, *more: str) -> tuple[WholeModel, Generation, Batch]:
    """A model, its task and a batch of the conversations."""
    model, task, _ = make(whole_folder(kind), shapes, *TYPED, *more)
    found = task.tokenizer(CONVERSATIONS)
    assert not found["problems"]
    prompts = found["input_ids"]
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    rows, length, side = len(prompts), int(lengths.max()), model.image_encoder.image_size
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        pixel_values=torch.randint(0, 256, (rows, 3, side, side), dtype=torch.uint8, generator=generator),
        input_ids=torch.tensor([prompt + [0] * (length - len(prompt)) for prompt in prompts]),
        attention_mask=torch.arange(length) < lengths[:, None],
        image_present=torch.ones(rows, dtype=torch.bool),
        text_present=torch.ones(rows, dtype=torch.bool),
        row=torch.arange(rows),
        weight=torch.tensor(WEIGHTS),
        target=torch.tensor([task.encode(answer) for answer in LAST_ANSWERS]),
    )
    return model, task, batch


def in_parts(turns: Conversation) -> list[dict[str, Any]]:
    """The turns as transformers takes them, the image first in the first turn of a user, or where a turn says."""
    placed = any(IMAGE_PLACE in turn.text for turn in turns)
    found = []
    for role, text in turns:
        parts: list[dict[str, str]] = [{"type": "text", "text": one} for one in text.split(IMAGE_PLACE) if one]
        if IMAGE_PLACE in text or (role == "user" and not placed):
            parts.insert(text.find(IMAGE_PLACE) > 0, {"type": "image"})
            placed = True
        found.append({"role": role, "content": parts})
    return found


def plain_inputs(model: WholeModel, batch: Batch, row: int) -> dict[str, Any]:
    """What the model's own processor makes of a conversation with its answer."""
    processor = model.whole.processor
    turns = [*CONVERSATIONS[row], Turn("assistant", LAST_ANSWERS[row])]
    text = processor.apply_chat_template(in_parts(turns))
    special = {"add_special_tokens": False} if text.startswith(processor.tokenizer.bos_token) else {}
    assert batch.pixel_values is not None
    image = batch.pixel_values[row].permute(1, 2, 0).numpy()
    found = processor(text=[text], images=[image], return_tensors="pt", **special)
    found["pixel_values"] = model.whole.pixels.arranged(model.image_encoder.normalise(batch.pixel_values[row][None]))
    return {name: value for name, value in found.items() if name not in ("num_crops", "num_patches")}


def of_assistant(ids: list[int], tokenizer: Any) -> list[bool]:
    """Which tokens are the assistant's, by where its turns begin and end."""
    begin = tokenizer("<|im_start|>assistant:", add_special_tokens=False)["input_ids"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    found, inside = [False] * len(ids), False
    for at, token in enumerate(ids):
        found[at] = inside
        inside = (inside and token != end) or ids[: at + 1][-len(begin) :] == begin
    return found


@pytest.mark.parametrize("kind", IN_CHAT)
def test_tokens_are_those_of_the_chat_template(kind: str, whole_folder: Folder, shapes: Any) -> None:
    model, task, batch = made(kind, whole_folder, shapes)
    for row, answer in enumerate(LAST_ANSWERS):
        own = [*task.tokenizer([CONVERSATIONS[row]])["input_ids"][0], *map(learned, task.tokenizer.answer(answer))]
        image = [model.whole.image_token] * model.image_tokens
        tokens = [one for token in own for one in (image if token == IMAGE_MARK else [max(token, learned(token))])]
        wanted = plain_inputs(model, batch, row)["input_ids"][0].tolist()
        assert tokens == wanted
        is_learned = [token < IMAGE_MARK for token in own for _ in (image if token == IMAGE_MARK else [0])]
        assert is_learned == of_assistant(wanted, model.whole.processor.tokenizer)


def test_an_image_token_that_is_typed_is_a_word(whole_folder: Folder, shapes: Any, tmp_path: Path) -> None:
    """Also where the tokenizer's file does not call it special."""
    folder = shutil.copytree(whole_folder("llava"), tmp_path / "llava")
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    (added,) = (one for one in tokenizer["added_tokens"] if one["content"] == "<image>")
    added["special"] = False
    file.write_text(json.dumps(tokenizer))
    model, task, _ = make(folder, shapes, *TYPED)
    (ids,) = task.tokenizer(["is <image>it green"])["input_ids"]
    assert model.whole.image_token not in ids
    assert ids.count(IMAGE_MARK) == 1
    assert "is <image>it green" in task.tokenizer.decode([one for one in ids if one != IMAGE_MARK])


@pytest.mark.parametrize(
    ("kind", "packing"),
    [(kind, packing) for kind in IN_CHAT for packing in (False, True) if (kind, packing) != REFUSED],
)
def test_loss_and_gradients_are_those_of_plain_transformers(
    kind: str, packing: bool, whole_folder: Folder, shapes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over every turn of the assistant with its end, each row by itself, within 1e-10 in float64."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)  # Gemma's norms are computed in float32 otherwise
    model, task, batch = made(kind, whole_folder, shapes, "tune=full", f"task.packing={packing}")
    model.double().train()
    plain = plain_model(whole_folder(kind), model.image_encoder.image_size).double().train()
    total, count = torch.zeros((), dtype=torch.float64), 0.0
    for row, weight in enumerate(WEIGHTS):
        inputs = plain_inputs(model, batch, row)
        ids = inputs["input_ids"][0]
        asked = torch.tensor(of_assistant(ids.tolist(), model.whole.processor.tokenizer))
        logits = plain(**inputs).logits[0]
        total = total + weight * functional.cross_entropy(logits[:-1][asked[1:]], ids[asked], reduction="sum")
        count += weight * int(asked.sum())
    (total / count).backward()
    found = added_up(model, task, [batch], None)
    assert float(found) == pytest.approx(float(total.detach() / count), abs=1e-10)
    wanted = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    for part, module in model.parts().items():
        for name, parameter in module.named_parameters():
            theirs = wanted.pop(model.whole.prefixes[part] + name, None)
            if theirs is not None:
                assert parameter.grad is not None
                assert float((parameter.grad - theirs).abs().max()) < 1e-10, name
    assert not wanted


@pytest.mark.parametrize("kind", WHOLE_MODELS)
def test_no_answer_sees_what_follows_it(kind: str, whole_folder: Folder, shapes: Any) -> None:
    """Also where a prompt attends both ways: an earlier answer ends that part."""
    model, _, batch = made(kind, whole_folder, shapes)
    assert batch.target is not None
    assert batch.input_ids is not None
    assert batch.attention_mask is not None
    with torch.no_grad():
        found = model.eval().score(batch).logits
        other = model.score(replace(batch, target=batch.target.where(batch.target < 0, 7))).logits
    torch.testing.assert_close(found[:, batch.target.shape[1] :], other[:, batch.target.shape[1] :])
    behind = batch.input_ids.clone()
    last = batch.attention_mask.sum(1) - 1
    behind[torch.arange(len(last)), last] = 7
    with torch.no_grad():
        changed = model.score(replace(batch, input_ids=behind)).logits
    earlier = changed[:, batch.target.shape[1] :]
    torch.testing.assert_close(found[:, batch.target.shape[1] :], earlier)
    assert float((changed - found).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["paligemma", "blip_2"])
def test_without_a_template_turns_are_lines(kind: str, whole_folder: Folder, shapes: Any) -> None:
    model, task, _ = made(kind, whole_folder, shapes)
    (ids,) = task.tokenizer(CONVERSATIONS[:1])["input_ids"]
    end = model.whole.tokenizer.tokenizer.eos_token
    assert ids[0] == IMAGE_MARK
    text = model.whole.tokenizer.decode([max(token, learned(token)) for token in ids[1:]])
    assert text.rstrip("\n") == f"<s>is it red\nred disc{end}\ndrawn in blue"
    assert task.tokenizer.decode([learned(token) for token in ids if token < IMAGE_MARK]) == "red disc"
