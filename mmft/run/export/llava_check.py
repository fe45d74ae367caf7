"""Compares an exported LLaVA with the run's model: the tokens of a prompt, and the probabilities of an answer.

Legend: A answer tokens, S tokens of a sequence, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmft.batch import Batch
from mmft.errors import UserError
from mmft.models.language.prompt_tokenizer import IMAGE_MARK
from mmft.run.export.writing import asked, in_chat, parts_of
from mmft.run.saved_model import SavedModel

CLOSE = 1e-4
"""The largest difference allowed of log-probabilities; rounding alone makes some 1e-6."""
_TEXT = "What is this?"


@torch.no_grad()
def check_same(saved: SavedModel, whole: Any, processor: Any) -> None:
    """Compares both on an image of noise and a question.

    Args:
        saved: the run's model, in eval mode, on the CPU.
        whole: the LLaVA, in eval mode.
        processor: the LLaVA's.

    Raises:
        UserError: the processor makes other tokens of the prompt, or the model computes other log-probabilities.
    """
    model: Any = saved.model
    tokenizer = model.text_encoder.tokenizer
    side = model.image_encoder.image_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8, generator=generator)
    own = tokenizer([_TEXT])["input_ids"][0]
    given = processor(images=pixels[0], text=_prompt(saved, processor), return_tensors="pt", **_special(saved))
    at = own.index(IMAGE_MARK)
    ids = [*own[:at], *[processor.image_token_id] * model.image_tokens, *own[at + 1 :]]
    if given["input_ids"][0].tolist() != ids:
        raise UserError(
            f"transformers' LLaVA cannot hold {model.text_encoder.source.name}: its tokenizer reads a text around an "
            "image as other tokens than the run did. Type format=hf for the encoders alone"
        )
    answer = torch.tensor([tokenizer.answer("red")])  # (1, A)
    yes = torch.tensor([True])
    row = Batch(
        pixels,
        torch.tensor([own]),
        torch.ones(1, len(own), dtype=torch.bool),
        image_present=yes,
        text_present=yes,
        row=torch.zeros(1, dtype=torch.int64),
        weight=torch.ones(1),
        target=answer,
    )
    expected = model.score(row).logits[0]  # (A,)
    found = _log_probs(whole, given, answer, model.text_encoder.head.out_features)
    error = float((found - expected).abs().max())
    if not error <= CLOSE:
        raise UserError(
            f"transformers' LLaVA computes other answers than the run with {model.image_encoder.source.name} and "
            f"{model.text_encoder.source.name}: a log-probability differs by {error:.2g}. Type format=hf for the "
            "encoders alone"
        )


def _prompt(saved: SavedModel, processor: Any) -> str:
    """The prompt of `_TEXT` as a text."""
    said = asked(saved, _TEXT)
    if not in_chat(saved):
        return said
    turns = [{"role": "user", "content": parts_of(said)}]
    return str(processor.apply_chat_template(turns, add_generation_prompt=True))


def _special(saved: SavedModel) -> dict[str, bool]:
    return {"add_special_tokens": False} if in_chat(saved) else {}


def _log_probs(whole: Any, given: Any, answer: Tensor, vocabulary: int) -> Tensor:
    """(A,) log-probability of each of the answer's tokens (1, A) among the first V."""
    inputs = torch.cat([given["input_ids"], answer], dim=1)  # (1, S)
    logits = whole(input_ids=inputs, attention_mask=torch.ones_like(inputs), pixel_values=given["pixel_values"]).logits[
        0, -answer.shape[1] - 1 : -1, :vocabulary
    ]  # (A, V)
    found: Tensor = logits.log_softmax(-1).gather(1, answer.T).squeeze(1)
    return found
