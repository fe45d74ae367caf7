"""Training rows of `task=generation` as the language model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from mmft.batch.images import Pieces
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
        of_image = model.image_tokens
        if rows.written is not None:
            sample = rows[at]
            if sample.bad is not None:
                continue
            cut = [one for one in sample.images if isinstance(one, Pieces)] or [model.images.missing]
            prompt = model.images.expanded(prompt, Pieces.together(cut).about)
            of_image = 1  # for each mark
        answer = [token for token in rows.targets[at].tolist() if token >= 0]
        said = as_read(tokenizer, [*prompt, *map(learned, answer)], of_image)
        marks = prompt.count(IMAGE_MARK)
        found.append(
            f"train row {rows.split.rows[at]}: {said}\n{len(prompt) - marks} tokens of the prompt, "
            f"{marks * of_image} of the image, {len(answer)} of the answer"
        )
    return "\n".join(found)


def as_read(tokenizer: PromptTokenizer, tokens: Sequence[int], image_tokens: int) -> str:
    """A sequence as text, with the image and what is learned in brackets; a mark stands for so many tokens."""
    parts = []
    for kind, group in groupby(tokens, key=lambda token: (token > IMAGE_MARK) - (token < IMAGE_MARK)):
        own = list(group)
        if kind == 0:
            parts.append(f"[{image_tokens * len(own)} image tokens]")
        elif kind < 0:
            parts.append(f"[learned: {tokenizer.tokenizer.decode(list(map(learned, own)))}]")
        else:
            parts.append(tokenizer.tokenizer.decode(own))
    return "".join(parts)
