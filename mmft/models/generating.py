"""Greedy generation by transformers' `generate`, from embedded prompts, with the probability of each token.

Legend: B batch, S tokens of a prompt, T generated tokens, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmft.models.language_model import LanguageModel
from mmft.models.precision import at_least_float32


class Generated(NamedTuple):
    """Generated tokens, the end-of-text token included."""

    tokens: Tensor  # (B, T) int64, -1 for padding
    log_probs: Tensor  # (B, T), 0 for padding


@torch.no_grad()
def generate(model: LanguageModel, inputs: Mapping[str, Any], mask: Tensor, max_new_tokens: int) -> Generated:
    """The likeliest token after token, until the end-of-text token.

    Args:
        model: in eval mode.
        inputs: prompts, padded on the right: `inputs_embeds` (B, S, D), or `input_ids` (B, S) and what else the model
            reads.
        mask: (B, S) bool, True = real token.
        max_new_tokens: largest T.
    """
    from transformers import GenerationConfig

    prompts, real = _padded_on_the_left(inputs, mask)
    backbone: Any = model.backbone
    end = int(model.tokenizer.eos_token_id)
    chosen = _Chosen()
    config = GenerationConfig(max_new_tokens=max_new_tokens, eos_token_id=end, pad_token_id=end, use_cache=True)
    with _configured(backbone, config):
        tokens = backbone.generate(
            **prompts, attention_mask=real.long(), logits_processor=[chosen]
        )  # (B, T), behind the prompt's ids if it is given as ids
    if "input_ids" in prompts:
        tokens = tokens[:, real.shape[1] :]
    log_probs = torch.stack(chosen.log_probs, dim=1)  # (B, T)
    ended = (tokens == end).cumsum(1) - (tokens == end).long() > 0  # behind the first end-of-text token
    return Generated(tokens.masked_fill(ended, -1), log_probs.masked_fill(ended, 0))


@contextmanager
def _configured(backbone: Any, config: Any) -> Iterator[None]:
    """Context with this generation config: transformers fills gaps from the folder's, which may sample or penalise."""
    own, backbone.generation_config = backbone.generation_config, config
    try:
        yield
    finally:
        backbone.generation_config = own


class _Chosen:
    """A logits processor that notes the log-probability of the likeliest token, which greedy decoding takes."""

    def __init__(self) -> None:
        self.log_probs: list[Tensor] = []  # (B,) each

    def __call__(self, _: Tensor, scores: Tensor) -> Tensor:
        """Returns the scores (B, V) as they are."""
        self.log_probs.append(at_least_float32(scores).log_softmax(-1).amax(-1))
        return scores


def _padded_on_the_left(inputs: Mapping[str, Any], mask: Tensor) -> tuple[dict[str, Any], Tensor]:
    """Tensors (B, S, ...) and mask (B, S) padded on the right -> the same on the left, as long as the longest row.

    Other inputs stay as they are.
    """
    size = mask.shape[1]
    missing = size - mask.sum(1, keepdim=True)  # (B, 1)
    places = (torch.arange(size, device=mask.device) - missing) % size  # (B, S)
    first = int(missing.min())

    def moved(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.shape[:2] != mask.shape:
            return value
        return value[torch.arange(len(mask), device=mask.device)[:, None], places[:, first:]]

    return {name: moved(value) for name, value in inputs.items()}, mask.gather(1, places)[:, first:]
