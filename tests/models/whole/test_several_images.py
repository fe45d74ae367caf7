"""Conversations with several images, against plain transformers with the model's own processor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from generative_rows import added_up
from tiled_rows import TILED, pictures
from torch import Tensor
from whole_models import WHOLE_MODELS
from whole_rows import ANSWERS, LENGTH, WEIGHTS, Folder, make, plain_logits, plain_model

from mmft.batch import IMAGE_PLACE, Batch, Conversation, Sample, Turn
from mmft.batch.images import Pieces
from mmft.data.collate import Collate

UNPLACED = {"blip_2", "llava_onevision"}
"""Whose processors do not write each of several images as they write one."""
BOTH = [*((kind, False) for kind in WHOLE_MODELS if kind not in UNPLACED)]
BOTH += [(kind, True) for kind in TILED if kind not in UNPLACED]
ASKED: list[tuple[Conversation, int]] = [
    ((Turn("user", f"{IMAGE_PLACE} is it red? or {IMAGE_PLACE} it"),), 2),
    ((Turn("user", f"{IMAGE_PLACE}drawn in blue"), Turn("assistant", "it"), Turn("user", f"and {IMAGE_PLACE} yes")), 2),
    ((Turn("user", f"{IMAGE_PLACE}a small study"),), 1),
    ((Turn("user", "is it green"),), 0),
]


def rows(model: Any, task: Any, tiles: bool) -> tuple[Batch, list[list[Any]]]:
    """Four conversations with two images, two, one and none; and the images."""
    sizes = [(32, 32), (48, 100), (100, 40), (20, 90), (64, 64)]
    every = iter(pictures(sizes if tiles else [(model.image_encoder.image_size,) * 2] * 5))
    tokenizer = model.text_encoder.tokenizer
    found = tokenizer([turns for turns, _ in ASKED])
    assert not found["problems"], found["problems"]
    samples, images = [], []
    for row, ((_, count), ids) in enumerate(zip(ASKED, found["input_ids"], strict=True)):
        own = [next(every) for _ in range(count)]
        pieces = [
            model.images.cut(one) if tiles else Pieces.of_square(torch.from_numpy(one).permute(2, 0, 1)) for one in own
        ]
        target = torch.tensor(task.encode(ANSWERS[row]))
        samples.append(Sample(row, None, torch.tensor(ids), target, WEIGHTS[row], images=tuple(pieces)))
        images.append(own)
    empty = np.array(tokenizer.empty, dtype=np.int32)
    return Collate(0, empty, None, samples[0].target, images=model.images)(samples), images


def plain_inputs(model: Any, turns: Conversation, images: list[Any]) -> dict[str, Any]:
    """What the model's own processor makes of a conversation."""
    processor = model.whole.processor
    whole = []
    for turn in turns:
        first, *others = turn.text.split(IMAGE_PLACE)
        parts: list[dict[str, str]] = [{"type": "text", "text": first}]
        for other in others:
            parts += [{"type": "image"}, {"type": "text", "text": other}]
        whole.append({"role": turn.role, "content": [part for part in parts if part.get("text") != ""]})
    if processor.chat_template:
        text = processor.apply_chat_template(whole, add_generation_prompt=True)
    else:  # PaliGemma: turns are lines
        ends = {"user": "\n", "assistant": processor.tokenizer.eos_token + "\n"}
        text = "".join(turn.text.replace(IMAGE_PLACE, processor.image_token) + ends[turn.role] for turn in turns)
    special = {"add_special_tokens": False} if text.startswith(processor.tokenizer.bos_token) else {}
    found = processor(text=[text], images=[images], return_tensors="pt", **special)
    return {name: value for name, value in found.items() if name not in ("num_crops", "num_patches", "labels")}


@pytest.mark.parametrize(("kind", "tiles"), BOTH)
def test_logits_are_those_of_plain_transformers(kind: str, tiles: bool, whole_folder: Folder, shapes: Any) -> None:
    model, task, _ = make(whole_folder(kind), shapes, f"model.tiles={tiles}")
    batch, images = rows(model, task, tiles)
    assert batch.input_ids is not None
    assert batch.attention_mask is not None
    side = model.image_encoder.image_size
    plain = (
        hf.AutoModelForImageTextToText.from_pretrained(whole_folder(kind)).eval()
        if tiles
        else plain_model(whole_folder(kind), side)
    )
    with torch.no_grad():
        found = model.eval().score(batch).logits
        for row, (turns, _) in enumerate(ASKED[:3]):
            if kind == "paligemma" and len(turns) > 1:
                continue  # behind its first answer no token sees a later one, which its processor does not know
            inputs = plain_inputs(model, turns, images[row])
            ids = batch.input_ids[row][batch.attention_mask[row]]
            ids = ids.where(ids >= -1, -2 - ids)  # earlier answers are learned
            assert ids.where(ids >= 0, model.whole.image_token).tolist() == inputs["input_ids"][0].tolist()
            answer = torch.tensor(task.tokenizer.answer(ANSWERS[row]))
            wanted = plain_logits(plain, inputs, answer).log_softmax(-1)[range(len(answer)), answer]
            torch.testing.assert_close(found[row, : len(answer)], wanted, atol=1e-5, rtol=1e-5)
        alone = torch.cat([model.score(part).logits[:, :LENGTH] for part in batch.split(1)])
    torch.testing.assert_close(alone, found[:, :LENGTH], atol=2e-6, rtol=0)


@pytest.mark.parametrize(("kind", "tiles"), [one for one in BOTH if one != ("gemma3", False)])
def test_packed_rows_are_the_rows_alone(
    kind: str, tiles: bool, whole_folder: Folder, shapes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    found = []
    for packing, micro in ((False, 1), (True, 3)):
        model, task, _ = make(
            whole_folder(kind), shapes, f"model.tiles={tiles}", f"task.packing={packing}", "tune=full"
        )
        model.double().train()
        loss = added_up(model, task, [rows(model, task, tiles)[0]], micro)
        found.append((loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (padded, wanted), (packed, theirs) = found
    assert float(packed) == pytest.approx(float(padded), abs=1e-10)
    assert all(float((theirs[name] - gradient).abs().max()) < 1e-10 for name, gradient in wanted.items())


@pytest.mark.parametrize(("kind", "tiles"), [("llava_onevision", False), ("llava_onevision", True), ("blip_2", False)])
def test_images_that_are_not_written_alike_are_a_problem(
    kind: str, tiles: bool, whole_folder: Folder, shapes: Any
) -> None:
    """LLaVA-OneVision cuts no image beside others; BLIP-2 puts its images in front."""
    model, _, _ = make(whole_folder(kind), shapes, f"model.tiles={tiles}")
    found = model.text_encoder.tokenizer([ASKED[0][0]])
    assert "does not place each image in one piece" in found["problems"][0]
