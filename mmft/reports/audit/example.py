"""A training row of `task=generation` as the language model reads it."""

from __future__ import annotations

from mmft.data.datamodule import VisionLanguageData
from mmft.models.generative_model import GenerativeModel
from mmft.models.prompt_tokenizer import IMAGE_MARK


def example_row(model: GenerativeModel, data: VisionLanguageData) -> str:
    """The first usable training row: its prompt with the place of the image, and what is learned; empty without one.

    Args:
        model: on the CPU.
        data: the run's.
    """
    rows = data.datasets["train"]
    for at, row in enumerate(rows.split.rows.tolist()):
        if row in rows.bad or rows.targets is None:
            continue
        tokenizer = model.text_encoder.tokenizer
        given = rows.text(at).tolist()
        prompt = given or tokenizer.empty
        answer = [token for token in rows.targets[at].tolist() if token >= 0]
        first = prompt.index(IMAGE_MARK)
        before, after, learned = map(tokenizer.tokenizer.decode, (prompt[:first], prompt[first + 1 :], answer))
        image = f"[{model.image_tokens} image tokens]"
        return (
            f"train row {row}: {before}{image}{after}[learned: {learned}]\n"
            f"{len(prompt) - 1} tokens of the prompt, {model.image_tokens} of the image, {len(answer)} of the answer"
        )
    return ""
