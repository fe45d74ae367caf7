"""Annotators' answers to a question: how they are read and written alike, what each is worth, which are learned.

The way of writing and the worth are those of the VQA evaluation (Antol et al. 2015, arXiv 1505.00468; Goyal et al.
2017, arXiv 1612.00837), by its published rules: visualqa.org/evaluation.
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

_ARTICLES = frozenset({"a", "an", "the"})
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
"""Those that are no other word without their apostrophes: not he'll, I'd, it's, let's, she'd, we'd, we'll, we're."""
_COMMA = re.compile(r"(?<=\d),(?=\d)")
_PERIOD = re.compile(r"\.(?!\d)")
_SIGNS = re.compile(r'[;/\[\]"{}()=+\\_\-><@`,?!]')


def _misspelt(contraction: str) -> Iterator[str]:
    """The contraction with and without each of its apostrophes."""
    first, *rest = contraction.split("'")
    for joints in product(("", "'"), repeat=len(rest)):
        yield first + "".join(joint + part for joint, part in zip(joints, rest, strict=True))


_RESTORED = {wrong: right for right in _CONTRACTIONS.split() for wrong in _misspelt(right)}


@lru_cache(maxsize=2**16)  # annotators mostly say the same
def normalised(answer: str) -> str:
    """The answer as the VQA evaluation compares it.

    Lower case; no comma between digits, no period but in a decimal, a blank for any other sign; number words to ten
    (and `none`) as digits; no articles; contractions with their apostrophes; one blank between words. As in the
    evaluation's program `' : $ % & # * |` are no signs. It differs from that program in two oddities: where a sign
    stands beside a blank, or a comma between digits, the program takes out all signs of the text and puts no blank.

    An answer of nothing but articles and signs, such as the letter A, stays as it is, in lower case.
    """
    plain = _SIGNS.sub(" ", _PERIOD.sub("", _COMMA.sub("", answer.lower())))
    numbered = (_NUMBERS.get(word, word) for word in plain.split())
    words = [_RESTORED.get(word, word) for word in numbered if word not in _ARTICLES]
    return " ".join(words or answer.lower().split())


def answers_of(label: Any, separator: str, normalise: bool) -> list[str]:
    """One answer for each annotator of a row, as the table gives them.

    Args:
        label: a list of answers, a text with `separator` between them, one answer, or None (an empty cell).
        separator: as in `label_set`.
        normalise: as the VQA evaluation does; else only blanks around an answer are left out.

    Raises:
        ValueError: with the reason: no answer, an empty one, or a list that is written as text.
    """
    if label is None or label == []:
        raise ValueError("no answer")
    names = [name.strip() for name in label_set(label, separator, empty_is_none=False, called="answer")]
    if "" in names:
        raise ValueError(f"an empty answer in {label!r:.80}")
    return [normalised(name) for name in names] if normalise else names


def vqa_score(given: int, annotators: int) -> float:
    """What an answer is worth, from 0 to 1: the VQA accuracy of a model that gives it.

    An answer is right if three annotators give it, and partly right if fewer do. So that machines are measured as
    people are, who are compared with all others but themselves, it is the mean over all ways to leave one annotator
    out, of min(annotators left who give it / 3, 1). Of 10 annotators 0, 1, 2, 3, 4 or more are worth 0, .3, .6, .9, 1.

    Fewer than four cannot leave three behind: then all who are left must give it, min(3, annotators - 1) in the place
    of 3. That makes it the share of annotators, up to four of them, and so the only annotator's answer is worth 1.

    Args:
        given: annotators that give the answer.
        annotators: of the row, at least 1.
    """
    if annotators <= 4:
        return given / annotators
    if_one_of_them, if_another = min(max(given - 1, 0) / 3, 1.0), min(given / 3, 1.0)
    return (given * if_one_of_them + (annotators - given) * if_another) / annotators


def scores_of(answers: Sequence[str]) -> dict[str, float]:
    """What each of a row's different answers is worth, by `vqa_score`, the one that is given most first."""
    return {answer: vqa_score(given, len(answers)) for answer, given in Counter(answers).most_common()}


def commonest(rows: Iterable[Iterable[str]], most: int | None, min_count: int) -> list[str]:
    """The answers that are given in most rows; those given in as many are in order, numbers by value.

    Args:
        rows: the different answers of each row.
        most: answers at most; None: all.
        min_count: rows in which an answer must be given.
    """
    counts = Counter(answer for row in rows for answer in row)
    enough = in_order(answer for answer, count in counts.items() if count >= min_count)
    return sorted(enough, key=lambda answer: -counts[answer])[:most]


def distinct(vocabulary: Iterable[str], normalise: bool) -> list[str]:
    """A given vocabulary as answers are compared.

    Raises:
        ValueError: two of them are one answer.
    """
    known: dict[str, str] = {}
    for name in vocabulary:
        answer = normalised(name) if normalise else label_name(name).strip()
        if answer in known:
            raise ValueError(f"{known[answer]!r} and {name!r} are one answer, {answer!r}")
        known[answer] = name
    return list(known)
