"""Generation by transformers' `generate`, from embedded prompts, with the probability of each token.

Legend: B batch, S tokens of a prompt, T generated tokens, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmft.models.answer_scores import cache_keyword
from mmft.models.decoding import Decoding, OwnLogProbs, StopTexts
from mmft.models.language_model import LanguageModel


class Generated(NamedTuple):
    """Generated tokens, the end-of-text token included."""

    tokens: Tensor  # (B, T) int64, -1 for padding
    log_probs: Tensor | None  # (B, T) under the model's own distribution, 0 for padding; None for beams


@torch.no_grad()
def generate(model: LanguageModel, embedded: Tensor, mask: Tensor, decoding: Decoding, rows: Tensor) -> Generated:
    """Token after token, until the end-of-text token or a stop text.

    Args:
        model: in eval mode.
        embedded: (B, S, D) prompts, padded on the right.
        mask: (B, S) bool, True = real token.
        decoding: how texts are written.
        rows: (B,) row numbers, which sampling depends on.
    """
    from transformers import GenerationConfig

    prompts, real = padded_on_the_left(embedded, mask)
    backbone: Any = model.backbone
    end, beams = int(model.tokenizer.eos_token_id), decoding.options.num_beams
    stops = StopTexts(decoding.options.stop, model.tokenizer.tokenizer)
    own = OwnLogProbs()
    config = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens, num_beams=beams, eos_token_id=end, pad_token_id=end, use_cache=True
    )
    with _configured(backbone, config):
        tokens = backbone.generate(
            inputs_embeds=prompts,
            attention_mask=real.long(),
            logits_processor=[*([own] if beams == 1 else []), *decoding.processors(rows)],
            stopping_criteria=[stops] if decoding.options.stop else [],
        )  # (B, T)
    behind = (tokens == end).cumsum(1) - (tokens == end).long() > 0  # the first end-of-text token
    if decoding.options.stop:
        lengths = torch.tensor([stops.length(row) for row in tokens.tolist()], device=tokens.device)
        behind |= torch.arange(tokens.shape[1], device=tokens.device) >= lengths[:, None]
    log_probs = own.of(tokens).masked_fill(behind, 0) if beams == 1 else None
    return Generated(tokens.masked_fill(behind, -1), log_probs)


@torch.no_grad()
def stream(model: LanguageModel, embedded: Tensor, decoding: Decoding) -> Iterator[int]:
    """The tokens of one text, each as soon as it is written; those of beam search at the end.

    Args:
        model: in eval mode.
        embedded: (S, D) the prompt.
        decoding: how the text is written; sampling takes it for row 0.
    """
    from transformers import DynamicCache

    row, prompt = torch.zeros(1, dtype=torch.int64), embedded[None]
    if decoding.options.num_beams > 1:
        every = torch.ones(prompt.shape[:2], dtype=torch.bool, device=prompt.device)
        tokens = generate(model, prompt, every, decoding, row).tokens[0].tolist()
        yield from (token for token in tokens if token not in (-1, model.tokenizer.eos_token_id))
        return
    backbone: Any = model.backbone
    processors, stops = decoding.processors(row), StopTexts(decoding.options.stop, model.tokenizer.tokenizer)
    given: dict[str, Any] = {"inputs_embeds": prompt}
    cache = {cache_keyword(model.reader(backbone)): DynamicCache(config=backbone.config), "use_cache": True}
    written = torch.empty(1, 0, dtype=torch.int64, device=prompt.device)
    while written.shape[1] < decoding.max_new_tokens:
        scores = backbone(**given, **cache).logits[:, -1].float()  # (1, V)
        for processor in processors:
            scores = processor(written, scores)
        token = scores.argmax(-1, keepdim=True)
        if int(token) == model.tokenizer.eos_token_id:
            return
        written = torch.cat([written, token], dim=1)
        yield int(token)
        if stops.found_in(written[0].tolist()):
            return
        given = {"input_ids": token}


@contextmanager
def _configured(backbone: Any, config: Any) -> Iterator[None]:
    """Context with this generation config: transformers fills gaps from the folder's, which may sample or penalise."""
    own, backbone.generation_config = backbone.generation_config, config
    try:
        yield
    finally:
        backbone.generation_config = own


def padded_on_the_left(embedded: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(B, S, D) and (B, S) padded on the right -> the same on the left, as long as the longest row."""
    size = mask.shape[1]
    missing = size - mask.sum(1, keepdim=True)  # (B, 1)
    places = (torch.arange(size, device=mask.device) - missing) % size  # (B, S)
    first = int(missing.min())
    moved = embedded.gather(1, places[..., None].expand_as(embedded))
    return moved[:, first:], mask.gather(1, places)[:, first:]
