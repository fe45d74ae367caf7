"""Generation by transformers' `generate`, from embedded prompts, with the probability of each token.

Legend: B batch, S tokens of a prompt, T generated tokens, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmft.models.language.answer_scores import cache_keyword
from mmft.models.language.decoding import Decoding, OwnLogProbs, StopTexts
from mmft.models.language.language_model import LanguageModel


class Generated(NamedTuple):
    """Generated tokens, the end-of-text token included."""

    tokens: Tensor  # (B, T) int64, -1 for padding
    log_probs: Tensor | None  # (B, T) under the model's own distribution, 0 for padding; None for beams


@torch.no_grad()
def generate(
    model: LanguageModel, inputs: Mapping[str, Any], mask: Tensor, decoding: Decoding, rows: Tensor
) -> Generated:
    """Token after token, until the end-of-text token or a stop text.

    Args:
        model: in eval mode.
        inputs: prompts, padded on the right: `inputs_embeds` (B, S, D), or `input_ids` (B, S) and what else the model
            reads.
        mask: (B, S) bool, True = real token.
        decoding: how texts are written.
        rows: (B,) row numbers, which sampling depends on.
    """
    from transformers import GenerationConfig

    prompts, real = padded_on_the_left(inputs, mask)
    length = real.shape[1] if "input_ids" in prompts else 0  # of what is in front of the new ids
    backbone: Any = model.backbone
    end, beams = int(model.tokenizer.eos_token_id), decoding.options.num_beams
    stops = StopTexts(decoding.options.stop, model.tokenizer.tokenizer)
    own = OwnLogProbs()
    config = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens, num_beams=beams, eos_token_id=end, pad_token_id=end, use_cache=True
    )
    with _configured(backbone, config):
        tokens = backbone.generate(
            **prompts,
            attention_mask=real.long(),
            logits_processor=_behind(length, [*([own] if beams == 1 else []), *_processors(model, decoding, rows)]),
            stopping_criteria=_behind(length, [stops] if decoding.options.stop else []),
        )[:, length:]  # (B, T)
    behind = (tokens == end).cumsum(1) - (tokens == end).long() > 0  # the first end-of-text token
    if decoding.options.stop:
        lengths = torch.tensor([stops.length(row) for row in tokens.tolist()], device=tokens.device)
        behind |= torch.arange(tokens.shape[1], device=tokens.device) >= lengths[:, None]
    log_probs = own.of(tokens).masked_fill(behind, 0) if beams == 1 else None
    return Generated(tokens.masked_fill(behind, -1), log_probs)


@torch.no_grad()
def stream(model: LanguageModel, inputs: Mapping[str, Any], mask: Tensor, decoding: Decoding) -> Iterator[int]:
    """The tokens of one text, each as soon as it is written; those of beam search at the end.

    Args:
        model: in eval mode.
        inputs: as for `generate`, of one row.
        mask: (1, S) bool.
        decoding: how the text is written; sampling takes it for row 0.
    """
    from transformers import DynamicCache

    row = torch.zeros(1, dtype=torch.int64)
    if decoding.options.num_beams > 1:
        tokens = generate(model, inputs, mask, decoding, row).tokens[0].tolist()
        yield from (token for token in tokens if token not in (-1, model.tokenizer.eos_token_id))
        return
    backbone: Any = model.backbone
    processors, stops = _processors(model, decoding, row), StopTexts(decoding.options.stop, model.tokenizer.tokenizer)
    given, _ = padded_on_the_left(inputs, mask)
    cache = {cache_keyword(model.reader(backbone)): DynamicCache(config=backbone.config), "use_cache": True}
    written = torch.empty(1, 0, dtype=torch.int64, device=mask.device)
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


def _processors(model: LanguageModel, decoding: Decoding, rows: Tensor) -> list[Any]:
    """What changes the scores of the next token, in order."""
    backbone: Any = model.backbone
    never = torch.tensor(model.never_written, dtype=torch.int64, device=backbone.device)  # once, not for each token

    def without(_: Tensor, scores: Tensor) -> Tensor:
        return scores.index_fill(1, never, -torch.inf)

    return [*([without] if len(never) else []), *decoding.processors(rows)]


@contextmanager
def _configured(backbone: Any, config: Any) -> Iterator[None]:
    """Context with this generation config: transformers fills gaps from the folder's, which may sample or penalise."""
    own, backbone.generation_config = backbone.generation_config, config
    try:
        yield
    finally:
        backbone.generation_config = own


def _behind(length: int, functions: list[Any]) -> list[Any]:
    """Logits processors or stopping criteria that are given the new ids (B, T) alone, of (B, length + T)."""
    if not length:
        return functions
    return [lambda ids, scores, own=own, **more: own(ids[:, length:], scores, **more) for own in functions]


def padded_on_the_left(inputs: Mapping[str, Any], mask: Tensor) -> tuple[dict[str, Any], Tensor]:
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
