"""Training rows of `task=generation` as the language model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from mmft.data.datamodule import VisionLanguageData
from mmft.data.spread import spread_evenly
from mmft.models.language.generative_model import GenerativeModel
from mmft.models.language.prompt_tokenizer import IMAGE_MARK, PromptTokenizer, learned

SHOWN = 3
"""Rows."""


def example_rows(model: GenerativeModel, data: VisionLanguageData) -> str:
    """Some usable training rows: their prompts with the place of the image, and what is learned; empty without any.

    Args:
        model: on the CPU.
        data: the run's.
    """
    rows, tokenizer = data.datasets["train"], model.text_encoder.tokenizer
    usable = [at for at, row in enumerate(rows.split.rows.tolist()) if row not in rows.bad]
    if rows.targets is None or not usable:
        return ""
    found = []
    for place in spread_evenly(len(usable), SHOWN).tolist():
        at = usable[place]
        prompt = rows.text(at).tolist() or tokenizer.empty
        answer = [token for token in rows.targets[at].tolist() if token >= 0]
        said = as_read(tokenizer, [*prompt, *map(learned, answer)], model.image_tokens)
        found.append(
            f"train row {rows.split.rows[at]}: {said}\n{len(prompt) - 1} tokens of the prompt, {model.image_tokens} of "
            f"the image, {len(answer)} of the answer"
        )
    return "\n".join(found)


def as_read(tokenizer: PromptTokenizer, tokens: Sequence[int], image_tokens: int) -> str:
    """A sequence as text, with the image and what is learned in brackets."""
    parts = []
    for kind, group in groupby(tokens, key=lambda token: (token > IMAGE_MARK) - (token < IMAGE_MARK)):
        own = list(group)
        if kind == 0:
            parts.append(f"[{image_tokens} image tokens]")
        elif kind < 0:
            parts.append(f"[learned: {tokenizer.tokenizer.decode(list(map(learned, own)))}]")
        else:
            parts.append(tokenizer.tokenizer.decode(own))
    return "".join(parts)
