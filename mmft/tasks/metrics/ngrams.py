"""BLEU, chrF and CIDEr-D: scores of a corpus of texts against references, from counts of n-grams.

Each takes P texts and, for every text, one or more references.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

from torchmetrics.functional.text import bleu_score
from torchmetrics.text import SacreBLEUScore

Texts = Sequence[str]
References = Sequence[Sequence[str]]
_Counts = Counter[Any]

_CHARACTERS = 6  # chrF: longest n-gram of characters
_BETA_SQUARED = 4  # chrF: recall counts twice as much as precision
_WORDS = 4  # CIDEr: longest n-gram of words
_SIGMA = 6.0  # CIDEr-D: of the penalty of lengths

_SUFFIX = re.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|d|m))\b")
_PUNCTUATION = frozenset(".?!,:;-'\"`()[]{}") | {"--"}

_words = SacreBLEUScore().tokenizer  # "13a", sacrebleu's default: str -> list of str


def bleu(predictions: Texts, references: References) -> float:
    """BLEU of n-grams up to 4, from 0 to 1, with sacrebleu's tokenisation, without smoothing (Papineni et al. 2002).

    Clipped counts of all rows are summed, and so are lengths. It is 0 where no 4-gram of any row is right.
    """
    tokenised = [" ".join(_words(text)) for text in predictions]
    # Of references whose lengths are equally near, torchmetrics takes the first, sacrebleu the shortest.
    sorted_references = [sorted((" ".join(_words(text)) for text in texts), key=_length) for texts in references]
    return float(bleu_score(tokenised, sorted_references))


def _length(tokenised: str) -> int:
    return len(tokenised.split())


def chrf(predictions: Texts, references: References) -> float:
    """F score (beta 2) of character n-grams up to 6, from 0 to 1, whitespace left out (Popović 2015, W15-3049).

    As sacrebleu computes it: of several references the one with the best score of the row counts; counts of all rows
    are summed; orders without n-grams are left out. (torchmetrics' differs by two points and takes far longer.)
    """
    total = [(0, 0, 0)] * _CHARACTERS
    for prediction, texts in zip(predictions, references, strict=True):
        mine = _characters(prediction)
        rows = ([_matches(own, other) for own, other in zip(mine, _characters(text), strict=True)] for text in texts)
        best = max(rows, key=_f_score)
        total = [(a + x, b + y, c + z) for (a, b, c), (x, y, z) in zip(total, best, strict=True)]
    return _f_score(total)


def _characters(text: str) -> list[_Counts]:
    """The n-grams of characters by length."""
    joined = "".join(text.split())
    return [Counter(joined[at : at + n] for at in range(len(joined) - n + 1)) for n in range(1, _CHARACTERS + 1)]


def _matches(mine: _Counts, reference: _Counts) -> tuple[int, int, int]:
    """Numbers of n-grams: of the text (0 where the reference has none), of the reference, of both."""
    return mine.total() if reference else 0, reference.total(), (mine & reference).total()


def _f_score(counts: Sequence[tuple[int, int, int]]) -> float:
    """Of the mean precision and the mean recall over orders."""
    present = [(both / mine, both / reference) for mine, reference, both in counts if mine and reference]
    if not any(precision for precision, _ in present):
        return 0.0
    precision, recall = (sum(values) / len(present) for values in zip(*present, strict=True))
    score: float = (1 + _BETA_SQUARED) * precision * recall / (_BETA_SQUARED * precision + recall)
    return score


def cider(predictions: Texts, references: References) -> float:
    """CIDEr-D, from 0 to 10 (Vedantam et al. 2015, arXiv 1411.5726), as pycocoevalcap computes it.

    Ten times the mean over rows, references and lengths of n-grams (up to 4) of the clipped cosine of tf-idf vectors,
    with a Gaussian penalty of different lengths. Document frequencies are those of the rows' references, so scores of
    different sets of rows cannot be compared, and that of a single row is 0.

    Words are lower-case and without punctuation. The official tokeniser is a Java program; this one differs from it in
    rare words (abbreviations with periods).
    """
    mine = [_word_counts(text) for text in predictions]
    theirs = [[_word_counts(text) for text in texts] for texts in references]
    documents = Counter(chain.from_iterable({gram for one in texts for gram in one} for texts in theirs))
    rows = math.log(len(mine))
    weights = {gram: rows - math.log(count) for gram, count in documents.items()}
    scores = [
        sum(_cosine(own, other, weights, rows) for other in texts) / len(texts)
        for own, texts in zip(mine, theirs, strict=True)
    ]
    return 10 * math.fsum(scores) / len(scores)


def _word_counts(text: str) -> _Counts:
    """The n-grams of words of all lengths, as tuples."""
    split = _SUFFIX.sub(r" \1", " ".join(_words(text.lower()))).split()
    words = [word for word in split if word not in _PUNCTUATION]
    return Counter(tuple(words[at : at + n]) for n in range(1, _WORDS + 1) for at in range(len(words) - n + 1))


def _cosine(mine: _Counts, reference: _Counts, weights: dict[Any, float], unseen: float) -> float:
    """The mean over lengths of n-grams, with the penalty; `unseen` weighs n-grams that no reference has."""
    products, own, others = ([0.0] * _WORDS for _ in range(3))
    bigrams = 0
    for gram, count in mine.items():
        weight, at = weights.get(gram, unseen), len(gram) - 1
        own[at] += (count * weight) ** 2
        products[at] += min(count, reference[gram]) * reference[gram] * weight**2
        bigrams += count if at == 1 else 0
    for gram, count in reference.items():
        others[len(gram) - 1] += (count * weights[gram]) ** 2
        bigrams -= count if len(gram) == 2 else 0
    penalty = math.exp(-(bigrams**2) / (2 * _SIGMA**2))
    norms = [math.sqrt(one * other) for one, other in zip(own, others, strict=True)]
    return penalty * sum(product / norm for product, norm in zip(products, norms, strict=True) if norm) / _WORDS
