"""Annotators' answers to a question: reading, normalising and scoring them, and building the vocabulary.

Normalisation and score follow the published rules of the VQA evaluation (Antol et al. 2015, arXiv 1505.00468; Goyal
et al. 2017, arXiv 1612.00837): visualqa.org/evaluation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import product
from typing import Any

from mmft.tasks.label_sets import label_set
from mmft.tasks.labels import in_order, label_name

ARTICLES = frozenset({"a", "an", "the"})
_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]  # the rules end here
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_WORDS)}
_CONTRACTIONS = """
ain't aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't mustn't needn't oughtn't shan't
shouldn't wasn't weren't won't wouldn't couldn't've hadn't've mightn't've shouldn't've wouldn't've could've might've
must've should've would've not've i've they've we've what've where've who've you've i'm they're there're what're why're
you're he'd how'd it'd somebody'd someone'd something'd there'd they'd where'd who'd you'd he'd've i'd've it'd've
she'd've somebody'd've someone'd've something'd've there'd've they'd've we'd've who'd've you'd've how'll it'll
somebody'll someone'll something'll they'll what'll who'll why'll you'll he's how's she's somebody's someone's that's
there's what's when's where's who's why's ma'am o'clock 'twas y'all y'all'll y'all'd've
"""
"""Omitted: those that spell another word without apostrophes (he'll, I'd, it's, let's, she'd, we'd, we'll, we're)."""
_COMMA = re.compile(r"(?<=\d),(?=\d)")
_PERIOD = re.compile(r"\.(?!\d)")
_SIGNS = re.compile(r'[;/\[\]"{}()=+\\_\-><@`,?!]')


def _misspelt(contraction: str) -> Iterator[str]:
    """The contraction with and without each of its apostrophes."""
    first, *rest = contraction.split("'")
    for joints in product(("", "'"), repeat=len(rest)):
        yield first + "".join(joint + part for joint, part in zip(joints, rest, strict=True))


_RESTORED = {wrong: right for right in _CONTRACTIONS.split() for wrong in _misspelt(right)}


@lru_cache(maxsize=2**16)  # most annotators give the same answers
def normalised(answer: str) -> str:
    """The answer in the form in which the VQA evaluation compares answers.

    Lower case; commas between digits and periods outside decimals removed, other punctuation replaced by a space;
    number words up to ten (and `none`) as digits; articles removed; apostrophes restored in contractions; single
    spaces. As in the official script, `' : $ % & # * |` are kept. Two oddities of that script are not reproduced:
    next to a space, or with a comma between digits, it removes all punctuation of the text and inserts no space.

    An answer that consists only of articles and punctuation, such as the letter A, is only lowercased.
    """
    plain = _SIGNS.sub(" ", _PERIOD.sub("", _COMMA.sub("", answer.lower())))
    numbered = (_NUMBERS.get(word, word) for word in plain.split())
    words = [_RESTORED.get(word, word) for word in numbered if word not in ARTICLES]
    return " ".join(words or answer.lower().split())


def answers_of(label: Any, separator: str, normalise: bool) -> list[str]:
    """One answer per annotator of a row, parsed from the table's label.

    Args:
        label: a list of answers, a text with `separator` between them, one answer, or None (an empty cell).
        separator: as in `label_set`.
        normalise: normalise as the VQA evaluation does; otherwise only strip surrounding whitespace.

    Raises:
        ValueError: no answer, an empty answer, or a list written as text.
    """
    if label is None or label == []:
        raise ValueError("no answer")
    names = [name.strip() for name in label_set(label, separator, empty_is_none=False, called="answer")]
    if "" in names:
        raise ValueError(f"an empty answer in {label!r:.80}")
    return [normalised(name) for name in names] if normalise else names


def vqa_score(given: int, annotators: int) -> float:
    """The VQA accuracy of an answer, from 0 to 1.

    An answer is right if three annotators gave it, and partly right if fewer did. An annotator is compared with all the
    others; to measure models the same way, the score is the mean, over leaving out each annotator, of
    min(remaining annotators who gave it / 3, 1). With 10 annotators, 0, 1, 2, 3, 4 or more give 0, .3, .6, .9, 1.

    With fewer than four annotators, all remaining ones must agree: 3 becomes min(3, annotators - 1). With up to four
    the score is then the share of annotators who gave the answer; a single annotator's answer scores 1.

    Args:
        given: number of annotators who gave the answer.
        annotators: number of annotators of the row, at least 1.
    """
    if annotators <= 4:
        return given / annotators
    if_one_of_them, if_another = min(max(given - 1, 0) / 3, 1.0), min(given / 3, 1.0)
    return (given * if_one_of_them + (annotators - given) * if_another) / annotators


def scores_of(answers: Sequence[str]) -> dict[str, float]:
    """The `vqa_score` of each distinct answer of a row, the most frequent first."""
    return {answer: vqa_score(given, len(answers)) for answer, given in Counter(answers).most_common()}


def commonest(rows: Iterable[Iterable[str]], most: int | None, min_count: int) -> list[str]:
    """The most frequent answers, counted by row; ties are sorted, numbers by value.

    Args:
        rows: the distinct answers of each row.
        most: maximum number of answers; None for no limit.
        min_count: minimum number of rows that must contain an answer.
    """
    counts = Counter(answer for row in rows for answer in row)
    enough = in_order(answer for answer, count in counts.items() if count >= min_count)
    return sorted(enough, key=lambda answer: -counts[answer])[:most]


def distinct(vocabulary: Iterable[str], normalise: bool) -> list[str]:
    """A user-given vocabulary, normalised like the answers.

    Raises:
        ValueError: two entries are the same answer.
    """
    known: dict[str, str] = {}
    for name in vocabulary:
        answer = normalised(label_name(name)) if normalise else label_name(name)
        if answer in known:
            raise ValueError(f"{known[answer]!r} and {name!r} are the same answer, {answer!r}")
        known[answer] = name
    return list(known)
