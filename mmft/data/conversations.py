"""Conversations: turns of system, user and assistant, as OpenAI and transformers, or ShareGPT write them.

The last turn of the assistant is a row's answer; the turns before it are its prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import types

from mmft.batch import IMAGE_PLACE, Conversation, Turn
from mmft.data.columns import Labels, Reasons, WrongType, is_null
from mmft.data.sources.raw import Column, is_unicode

_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
_UNREAD = ("tool_calls", "function_call", "weight")  # would be wrong to ignore
_EXPECTED = 'a list of turns such as {"role": "user", "content": "What is it?"}'


class Conversations(NamedTuple):
    """The conversations of a table, in Arrow columns that workers share."""

    prompts: pa.ChunkedArray  # JSON of the turns before the answer
    answers: Labels  # a list of one text; null if the last turn is a user's

    def take(self, rows: npt.NDArray[np.int64]) -> list[Conversation | None]:
        """The prompts of `rows`; None for a row without."""
        found = self.prompts.take(pa.array(rows)).to_pylist()
        return [None if one is None else tuple(Turn(*turn) for turn in json.loads(one)) for one in found]


def as_conversations(column: Column) -> tuple[Conversations, Reasons]:
    """A column of lists of turns, or of such lists as JSON texts (CSV); null for an empty cell or a wrong one."""
    if not isinstance(column, list):
        kind = column.type
        if types.is_primitive(kind) or types.is_binary(kind) or types.is_large_binary(kind):
            raise WrongType(f"holds {kind}; a conversation is {_EXPECTED}, or a JSON text of it")
        column = column.to_pylist()
    reasons: Reasons = {}
    prompts: list[str | None] = []
    answers: list[list[str] | None] = []
    for row, value in enumerate(column):
        prompt, answer = None, None
        try:
            if not is_null(value) and value != "":
                *turns, last = conversation_of(value)
                answer = [last.text] if last.role == "assistant" else None
                prompt = json.dumps(turns if last.role == "assistant" else [*turns, last])
        except ValueError as error:
            reasons[row] = str(error)
        prompts.append(prompt)
        answers.append(answer)
    labels = pa.chunked_array([pa.array(answers, pa.list_(pa.string()))])
    return Conversations(pa.chunked_array([pa.array(prompts, pa.string())]), Labels(labels, mixed=False)), reasons


def conversation_of(value: Any) -> Conversation:
    """The turns of a conversation, its texts without surrounding whitespace.

    Args:
        value: a list of turns `{"role": ..., "content": ...}`, where a content is a text or a list of parts
            `{"type": "text", "text": ...}` and `{"type": "image"}`; or of `{"from": ..., "value": ...}`; or its JSON.

    Raises:
        ValueError: the reason why it is none.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON: {error}; a conversation is {_EXPECTED}") from None
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"a conversation is {_EXPECTED}")
    turns = tuple(_turn(number, turn) for number, turn in enumerate(value, 1))
    _check_order(turns)
    if any(IMAGE_PLACE in turn.text for turn in turns if turn.role == "assistant"):
        raise ValueError(f"the place of the image ({IMAGE_PLACE}) is in a turn of the assistant")
    return turns


def check_places(places: int, images: int) -> None:
    """Raises ValueError if a conversation has too many or too few places for its images; none stands for all in front.

    Without images, one place is that of a missing one.
    """
    if places > max(1, images):
        few = "a row has one image" if images < 2 else f"the row has {images} images"
        raise ValueError(f"{places} places of an image ({IMAGE_PLACE}), but {few}")
    if 0 < places < images:
        raise ValueError(f"{images} images, but {places} of them {'has' if places == 1 else 'have'} a place")


def with_places(turns: Conversation, images: int) -> Conversation:
    """The turns with places for several images in front of the first turn of a user, unless they have places."""
    if images < 2 or any(IMAGE_PLACE in turn.text for turn in turns):
        return turns
    first = next(at for at, turn in enumerate(turns) if turn.role == "user")
    return (*turns[:first], Turn("user", IMAGE_PLACE * images + turns[first].text), *turns[first + 1 :])


def written(conversation: Conversation) -> str:
    """The conversation to be read by people: a line for each turn."""
    return "\n".join(f"{turn.role}: {turn.text}" for turn in conversation)


def _turn(number: int, given: Any) -> Turn:
    """One turn. Raises ValueError."""
    if not isinstance(given, Mapping):
        raise ValueError(f"turn {number} is {given!r:.40}; a conversation is {_EXPECTED}")
    role = given.get("role") or given.get("from")
    content = given.get("value") if given.get("content") is None else given["content"]
    known = _ROLES.get(role.lower()) if isinstance(role, str) else None
    if known is None:
        raise ValueError(f"turn {number} has the role {role!r:.40}; allowed: {', '.join(_ROLES)}")
    if unread := [name for name in _UNREAD if given.get(name) is not None]:
        raise ValueError(f"turn {number} ({role}) has {', '.join(unread)}, which mmft does not read")
    if content is None:
        raise ValueError(f"turn {number} ({role}) has no content")
    parts: Sequence[Any] = content if isinstance(content, list | tuple) else [{"type": "text", "text": content}]
    text = "".join(_part(number, part) for part in parts).strip()
    if not text:
        raise ValueError(f"turn {number} ({role}) is empty")
    if not is_unicode(text):
        raise ValueError(f"turn {number} ({role}) is not valid Unicode text")
    return Turn(known, text)


def _part(number: int, given: Any) -> str:
    """The text of a part of a turn's content. Raises ValueError."""
    given = {"type": "text", "text": given} if isinstance(given, str) else given
    kind = given.get("type") if isinstance(given, Mapping) else None
    if kind == "text" and isinstance(given.get("text"), str):
        return str(given["text"])
    if kind in ("image", "image_url"):
        if any(value is not None for name, value in given.items() if name not in ("type", "text")):
            raise ValueError(f"turn {number} has an image of its own; put the image's path in data.columns.image")
        return IMAGE_PLACE
    raise ValueError(f"turn {number} has a content that is neither a text nor a list of texts and images")


def _check_order(turns: Conversation) -> None:
    """Raises ValueError if user and assistant do not take turns, which chat templates require."""
    roles = [turn.role for turn in turns]
    rest = roles[1:] if roles[0] == "system" else roles
    if not rest:
        raise ValueError("no turn of a user")
    for number, role in enumerate(rest):
        if role != ("user", "assistant")[number % 2]:
            expected = ("user", "assistant")[number % 2]
            turn = number + 1 + len(roles) - len(rest)
            raise ValueError(f"turn {turn} is the {role}'s where the {expected}'s is expected: they take turns")
