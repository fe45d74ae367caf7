"""How a language model writes its answers: keys of `task=generation` that `mmft test` and `mmft predict` can change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmft.config.fields import field


@dataclass(kw_only=True)
class DecodingConfig:
    """How texts are written; the names are those of transformers."""

    max_new_tokens: int | None = field(None, ge=1)
    """Longest answer to generate, in tokens; null: as `task.max_answer_tokens`."""
    num_beams: int = field(1, ge=1)
    """Beams of beam search; 1: none."""
    temperature: float = field(0.0, ge=0)
    """0: always the likeliest token; above 0: tokens are sampled, and higher temperatures vary more."""
    top_k: int | None = field(None, ge=1)
    """Sample among this many of the likeliest tokens; null: all."""
    top_p: float | None = field(None, gt=0, le=1)
    """Sample among the likeliest tokens that together have this probability; null: all."""
    sampling_seed: int = field(0, ge=0, lt=2**63)
    """Seed of sampling. A row's text depends on it and on the row's number, not on the other rows of its batch."""
    repetition_penalty: float = field(1.0, gt=0)
    """Above 1: a token that was already written becomes less likely (Keskar et al. 2019, arXiv 1909.05858)."""
    no_repeat_ngram_size: int | None = field(None, ge=1)
    """No sequence of this many tokens is written twice; null: any may be."""
    stop: list[str] = field(factory=list)
    """Texts that end an answer and are not part of it, such as `"task.stop=['Question:']"`."""
    choices: Literal["labels"] | list[str] | None = None
    """The only answers to choose from: a list, or `labels`, those of the training rows. The prediction is then the
    likeliest, `score` is its probability, and columns and metrics of classification are there, too; null: any text."""
    pattern: str | None = None
    """Regular expression that a whole answer matches, such as `"task.pattern='[0-9]+'"`, without look-around, back
    references and anchors; null: any text. It needs `pip install 'mmft[constrained]'`."""
