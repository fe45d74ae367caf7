"""How likely a language model finds each answer of a list: classification by a language model.

Legend: B batch, S tokens of a prompt, K answers, k answers of a pass, A tokens of the longest answer, T tokens,
D width.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

LogProbs = Callable[[Tensor, Tensor], Tensor]
"""The head: hidden states (T, D) and tokens (T,) -> (T,) log-probabilities."""


@torch.no_grad()
def answer_scores(
    model: Any,
    log_probs: LogProbs,
    prompts: Mapping[str, Any],
    mask: Tensor,
    positions: Tensor,
    answers: Sequence[Sequence[int]],
    at_once: int = 256,
) -> Tensor:
    """(B, K) log-probability of each answer after each prompt: the sum over the answer's tokens.

    With the end-of-text token in each answer, their exponentials add up to at most 1; `softmax` of a row gives the
    probabilities if nothing but an answer of the list may follow.

    Prompts are read once. Then all answers are read in one batch, or in several of at most `at_once` sequences.

    Args:
        model: a causal language model of transformers, in eval mode.
        log_probs: its head, as in `answer_log_probs`.
        prompts: inputs of the model, padded on the left: `inputs_embeds` (B, S, D), or `input_ids` (B, S) and others.
        mask: (B, S) bool, True = real token; each row has at least one.
        positions: (..., B, S + A) int64, of the tokens of prompts and answers.
        answers: token ids of each.
        at_once: sequences of a pass; at least one answer is read.
    """
    from transformers import DynamicCache

    reader = model.base_model
    named, keyword = inspect.signature(reader.forward).parameters, cache_keyword(reader)
    of_prompts, of_answers = positions[..., : mask.shape[1]], positions[..., mask.shape[1] :]

    def read(inputs: Mapping[str, Any], real: Tensor, position: Tensor, cache: Any) -> Tensor:
        """(B, T, D) hidden states of the last T tokens of sequences with the mask `real`."""
        given = {**inputs, keyword: cache, "attention_mask": real.long(), "use_cache": True}
        if "position_ids" in named:
            given["position_ids"] = position
        found: Tensor = reader(**given).last_hidden_state
        return found

    read_prompts = DynamicCache(config=model.config)
    last = read(prompts, mask, of_prompts, read_prompts)[:, -1:]  # (B, 1, D)
    found = []
    size = max(1, at_once // len(mask))
    for first in range(0, len(answers), size):
        ids = padded(answers[first : first + size], -1, mask.device)  # (k, A)
        ids, known = ids.clamp_min(0), ids >= 0
        cache, k = copy.deepcopy(read_prompts), len(ids)
        cache.batch_repeat_interleave(k)
        ids, known = ids.repeat(len(mask), 1), known.repeat(len(mask), 1)  # (B k, A)
        real = torch.cat([mask.repeat_interleave(k, 0), known], dim=1)
        position = of_answers[..., : ids.shape[1]].repeat_interleave(k, -2)
        embedded = model.get_input_embeddings()(ids)
        hidden = read({"inputs_embeds": embedded}, real, position, cache)  # (B k, A, D)
        predicting = torch.cat([last.repeat_interleave(k, 0), hidden[:, :-1]], dim=1)
        of_tokens = log_probs(predicting[known], ids[known])  # (T,)
        found.append(of_tokens.new_zeros(known.shape).masked_scatter(known, of_tokens).sum(1).view(-1, k))
    return torch.cat(found, dim=1)


def cache_keyword(reader: Any) -> str:
    """The argument that a model of transformers takes its cache by."""
    return "cache" if "cache" in inspect.signature(reader.forward).parameters else "past_key_values"  # the older name


def padded(answers: Sequence[Sequence[int]], empty: int, device: torch.device) -> Tensor:
    """(k, A) int64 ids of k answers, padded with `empty`."""
    longest = max(map(len, answers))
    return torch.tensor([[*answer, *[empty] * (longest - len(answer))] for answer in answers], device=device)
