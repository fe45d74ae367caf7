"""`task=generation`: answers written by a language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmft.config.fields import field
from mmft.config.registry import option
from mmft.config.schema.decoding import DecodingConfig
from mmft.config.schema.task import TaskConfig


@option("task", "generation", builds="mmft.tasks.generation:Generation")
@dataclass(kw_only=True)
class GenerationConfig(DecodingConfig, TaskConfig):
    """Write a text about the image: a caption, or the answer to the row's question. The loss is over answer tokens.

    `model.text_encoder` is a causal language model, and `data.columns.label` holds the answers.
    """

    generates = True
    has_label_names = True

    prompt: str | None = None
    """What the model is asked: a fixed text (`task.prompt="Describe the image."`), or one around each row's text
    (`"task.prompt='{text} Answer briefly.'"`); null: the row's text alone. The image stands in front of it, or where
    `{image}` is (`"task.prompt='{text} Look: {image}'"`)."""
    chat_template: Literal["auto", "none"] = "auto"
    """`auto`: the prompt is the user's turn in the language model's chat template, if any; `none`: it stays."""
    references: Literal["first", "random"] = "first"
    """Which of a row's several answers (a list, or a JSON list of texts) is learned: the first, or one drawn anew in
    each epoch. Metrics compare with all of them, `val/loss` and `perplexity` with the first."""
    max_answer_tokens: int = field(64, ge=1)
    """Longest answer to learn from, in tokens, the end-of-text token included; a row with a longer one is bad."""
    normalise: Literal["tokens", "rows"] = "tokens"
    """The loss of a batch: its mean over all answer tokens, or over rows the mean of each row's tokens, so that long
    answers count as much as short ones."""
    metrics: list[str] = field(factory=lambda: ["exact_match", "token_f1"])
    """How generated texts are compared with the answers, beside `perplexity`: `exact_match` and `token_f1` as in SQuAD,
    `vqa_accuracy`, `anls` (DocVQA), `rouge_l`, `bleu`, `chrf`, `cider` (captions). The first selects the best
    checkpoint."""
    validation_rows: int | None = field(None, ge=1, needs_val=True)
    """Write texts for this many of the validation rows, drawn by `seed`, since writing is slow; null: for all."""
    label_smoothing: float = field(0.0, ge=0, lt=1)
    """Share of each answer token's target that is spread evenly over the vocabulary, in the training loss alone."""
    packing: bool = False
    """Read several rows in one sequence, without padding: the same loss and gradients, faster with mixed lengths."""
