"""Metrics of generated texts against one or more reference answers, and perplexity.

All lie between 0 and 1 and are better when higher, except CIDEr-D (0 to 10) and perplexity (at least 1, better when
lower).

Legend: B batch.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.text import rouge_score, squad

from mmft.tasks.answers import ARTICLES, normalised, vqa_score
from mmft.tasks.metrics.ngrams import References, Texts, bleu, chrf, cider

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_MOST_EDITS = 0.5  # of an answer's characters, for ANLS


def exact_match(prediction: str, references: Texts) -> float:
    """1 if the text equals a reference, else 0, as in SQuAD 1.1: without case, punctuation, articles, extra blanks."""
    return _squad(prediction, references)["exact_match"].item() / 100


def token_f1(prediction: str, references: Texts) -> float:
    """F1 of the words of text and best reference, as in SQuAD 1.1, compared as by `exact_match`."""
    return _squad(prediction, references)["f1"].item() / 100


def says_nothing(answer: str) -> bool:
    """Whether nothing is left of an answer in SQuAD's form ("A", "+"), so that it equals an empty text."""
    return ARTICLES.issuperset(answer.lower().translate(_PUNCTUATION).split())


def _squad(prediction: str, references: Texts) -> dict[str, Tensor]:
    """Both in percent."""
    answers: dict[str, list[str] | list[int]] = {"text": list(references), "answer_start": [0] * len(references)}
    return squad({"prediction_text": prediction, "id": "0"}, {"answers": answers, "id": "0"})


def vqa_accuracy(prediction: str, references: Texts) -> float:
    """`vqa_score` of the text, the references being annotators' answers, all in the form of the VQA evaluation."""
    answer = normalised(prediction)
    return vqa_score(sum(normalised(text) == answer for text in references), len(references))


def anls(prediction: str, references: Texts) -> float:
    """Average normalised Levenshtein similarity of DocVQA: 1 - edits / length of the longer text, 0 below a half.

    Of the best reference; case and extra blanks are ignored (Biten et al. 2019, arXiv 1905.13648). Exactly a half
    counts, as in the official script.
    """
    mine = " ".join(prediction.lower().split())
    nearest = min(_share_edited(mine, " ".join(text.lower().split())) for text in references)
    return 1 - nearest if nearest <= _MOST_EDITS else 0.0


def _share_edited(mine: str, other: str) -> float:
    longer = max(len(mine), len(other))
    return edits(mine, other) / longer if longer else 0.0


def edits(one: str, other: str) -> int:
    """Levenshtein distance, in characters. (torchmetrics searches near the diagonal only and may find more edits.)"""
    above = list(range(len(other) + 1))
    for row, character in enumerate(one, 1):
        line = [row]
        for column, its in enumerate(other, 1):
            line.append(min(above[column] + 1, line[-1] + 1, above[column - 1] + (character != its)))
        above = line
    return above[-1]


def rouge_l(prediction: str, references: Texts) -> float:
    """ROUGE-L F of the best reference: by the longest common subsequence of words, not stemmed (Lin 2004, W04-1013).

    As in rouge-score, words are runs of a to z and 0 to 9: texts in other scripts score 0.
    """
    return rouge_score([prediction], [list(references)], rouge_keys="rougeL")["rougeL_fmeasure"].item()


OF_ROWS: dict[str, Callable[[str, Texts], float]] = {
    "exact_match": exact_match,
    "token_f1": token_f1,
    "vqa_accuracy": vqa_accuracy,
    "anls": anls,
    "rouge_l": rouge_l,
}
"""Metrics that are the mean of a score of each row: a text and its references -> score."""

OF_CORPUS: dict[str, Callable[[Texts, References], float]] = {"bleu": bleu, "chrf": chrf, "cider": cider}
"""Metrics of all rows together: texts and the references of each -> score."""


def text_metric_names() -> list[str]:
    """The metrics that `TextMetrics` knows."""
    return [*OF_ROWS, *OF_CORPUS]


class TextMetrics(Metric):
    """Metrics of generated texts. Texts are kept, so that any number of ranks computes the same from all rows in order.

    Args:
        names: of `text_metric_names`.

    Raises:
        ValueError: an unknown name.
    """

    rows: list[Tensor]

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        if unknown := [name for name in names if name not in text_metric_names()]:
            raise ValueError(
                f"no metric of texts is named {unknown[0]!r}: choose from {', '.join(text_metric_names())}"
            )
        self.names = list(names)
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, predictions: Texts, references: References) -> None:
        """Adds rows: B texts, and B sequences of at least one reference."""
        for texts in references:
            assert not isinstance(texts, str)
            assert texts
        written = json.dumps(list(zip(predictions, references, strict=True))).encode()
        self.rows.append(torch.frombuffer(bytearray(written), dtype=torch.uint8))

    def compute(self) -> dict[str, Tensor]:
        """() float64 each, by name; nan without rows."""
        rows = [row for batch in self.rows for row in json.loads(batch.cpu().numpy().tobytes())]
        return {name: torch.tensor(_measured(name, rows), dtype=torch.float64) for name in self.names}


def _measured(name: str, rows: Sequence[tuple[str, list[str]]]) -> float:
    if not rows:
        return math.nan
    if name in OF_ROWS:
        return math.fsum(OF_ROWS[name](*row) for row in rows) / len(rows)
    predictions, references = zip(*rows, strict=True)
    return OF_CORPUS[name](predictions, references)


class Perplexity(Metric):
    """exp of the mean negative log-probability of all answer tokens: a row with more tokens counts for more."""

    sums: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", [], dist_reduce_fx="cat")

    def update(self, log_probs: Tensor, tokens: Tensor) -> None:
        """Adds rows: (B,) the sum of the log-probabilities of a row's answer tokens, and (B,) their number."""
        self.sums.append(torch.stack([log_probs.double().sum(), tokens.double().sum()])[None])

    def compute(self) -> Tensor:
        """() float64; nan without tokens."""
        log_prob, tokens = torch.cat([torch.zeros(1, 2, dtype=torch.float64, device=self.device), *self.sums]).sum(0)
        return torch.exp(-log_prob / tokens)
