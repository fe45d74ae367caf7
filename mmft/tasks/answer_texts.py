"""Answers as free text: reading a row's reference answers, and cutting what was generated at a stop text."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Sequence
from typing import Any

from mmft.tasks.labels import text_of


def references_of(label: Any) -> list[str]:
    """The reference answers of a row, in order, without surrounding whitespace; the first is the one to learn from.

    >>> references_of("a cat"), references_of(["a cat", "cat"]), references_of('["a cat", "cat"]')
    (['a cat'], ['a cat', 'cat'], ['a cat', 'cat'])

    Other texts in brackets, such as the coordinates `[1, 2]`, are one answer.

    Args:
        label: the table's value: a list of answers, a JSON list of texts (as in a CSV file), one answer, or None (an
            empty cell).

    Raises:
        ValueError: no answer, an empty answer, or a list of texts written in another way than JSON.
    """
    if label is None:
        raise ValueError("no answer")
    given = label if isinstance(label, list) else _listed(text_of(label).strip())
    answers = ["" if one is None else text_of(one).strip() for one in given]
    if not answers or answers == [""]:
        raise ValueError("no answer")
    if "" in answers:
        raise ValueError(f"an empty answer in {label!r:.80}")
    return answers


def has_several(label: Any) -> bool:
    """Whether a row has several reference answers; an unusable one has none."""
    try:
        return len(references_of(label)) > 1
    except ValueError:
        return False


def as_cell(answers: Sequence[str]) -> str:
    """Reference answers as in a table: the only one, or a JSON list."""
    return answers[0] if len(answers) == 1 else json.dumps(list(answers), ensure_ascii=False)


def _listed(text: str) -> list[str]:
    """The texts of a JSON list; a list of the text itself if it is none."""
    if (texts := _texts(text, json.loads)) is not None:
        return texts
    if _texts(text, ast.literal_eval) is not None:
        raise ValueError(
            f'a list written as Python does, {text!r:.40}: write it as JSON, ["one", "two"], in double quotes'
        )
    return [text]


def _texts(text: str, read: Callable[[str], Any]) -> list[str] | None:
    """What `read` reads, if it is a list of texts."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        found = read(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # what the readers raise for other texts
        return None
    return found if isinstance(found, list) and all(isinstance(one, str) for one in found) else None


def cut(text: str, stops: Sequence[str]) -> str:
    """The text up to where a stop text first begins, without surrounding whitespace.

    >>> cut(" Paris. Question: what", ["Question:", "###"])
    'Paris.'

    Raises:
        ValueError: an empty stop text.
    """
    if "" in stops:
        raise ValueError("an empty stop text would cut everything")
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))].strip()
