"""Texts that belong to no row, as a model encodes them: the prompts of zero-shot classification."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmft.batch import Sample
from mmft.data.collate import Collate
from mmft.data.text import empty_text, pad_id, tokenize
from mmft.models.vision_language_model import VisionLanguageModel

_AT_ONCE = 256


@torch.inference_mode()
def fused_texts(model: VisionLanguageModel, texts: Sequence[str], device: torch.device) -> Tensor:
    """The fused features (T, F) of texts without an image.

    Args:
        model: on `device`, in eval mode.
        texts: T texts.
        device: the model's.
    """
    tokenizer, longest = model.text_encoder.tokenizer, model.text_encoder.max_length
    collate = Collate(pad_id(tokenizer), empty_text(tokenizer, longest), tokenizer.model_max_length)
    tokens = tokenize(texts, tokenizer, longest)
    samples = [Sample(at, input_ids=torch.from_numpy(tokens.of(at)).long()) for at in range(len(texts))]
    batches = (collate(samples[first : first + _AT_ONCE]).to(device) for first in range(0, len(samples), _AT_ONCE))
    return torch.cat([model.fuse(batch).features for batch in batches])
