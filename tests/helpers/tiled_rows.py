"""Rows of a tiny vision-language model with images of several proportions, cut into tiles or patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from whole_rows import ANSWERS, TEXTS, WEIGHTS

from mmft.batch import Batch, Sample
from mmft.batch.images import ImagesInPrompt
from mmft.data.collate import Collate
from mmft.models.whole.model import WholeModel
from mmft.tasks.generation import Generation

TILED = ["smolvlm", "idefics3", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"]
"""The tiny models whose processors cut images."""
SIZES = [(32, 32), (48, 100), (100, 40), (20, 90), (64, 64), (33, 47), (90, 30)]


def pictures(sizes: Sequence[tuple[int, int]] = SIZES) -> list[npt.NDArray[np.uint8]]:
    """Images of noise, (H, W, 3) each."""
    generator = np.random.default_rng(1)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def tiled_rows(
    model: WholeModel, task: Generation, images: Sequence[npt.NDArray[np.uint8] | None] | None = None
) -> Batch:
    """Seven rows with image, question and answer; None for a row without an image."""
    given = pictures() if images is None else images
    tokenizer: Any = model.text_encoder.tokenizer
    cut: ImagesInPrompt = tokenizer.images
    prompts = tokenizer(TEXTS)["input_ids"]
    samples = [
        Sample(
            row,
            input_ids=torch.tensor(prompts[row]),
            target=torch.tensor(task.encode(ANSWERS[row])),
            weight=WEIGHTS[row],
            images=() if image is None else (cut.cut(image),),
        )
        for row, image in enumerate(given)
    ]
    empty = np.array(tokenizer.empty, dtype=np.int32)
    return Collate(0, empty, None, samples[0].target, images=cut)(samples)


def plain_tiled_inputs(model: WholeModel, row: int, image: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """What the model's own processor makes of a row's image and question."""
    processor = model.whole.processor
    content = [{"type": "image"}, {"type": "text", "text": TEXTS[row]}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    special = {"add_special_tokens": False} if text.startswith(processor.tokenizer.bos_token) else {}
    return dict(processor(text=[text], images=[image], return_tensors="pt", **special))
