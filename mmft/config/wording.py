"""Shared wording of messages about the config."""

from __future__ import annotations

import math
import operator
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from mmft.config.habits import meant

_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a string", type(None): "null"}
_PLURAL = {int: "integers", float: "numbers", str: "strings", bool: "booleans"}


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The closest match for `name` among `names`, or None.

    Another framework's name for it comes first (`mmft.config.habits`), then one with the same ending (`batch_size` for
    `data.batch_size`), then a similar spelling.
    """
    import difflib

    known = list(names)
    if found := meant(name, known):
        return found
    same_end = [k for k in known if k.split(".")[-1] == name.rsplit(".", maxsplit=1)[-1]]
    for pool, cutoff in ((same_end, 0.0 if len(same_end) == 1 else 0.5), (known, 0.7), (known, 0.6)):
        if close := difflib.get_close_matches(name, pool, n=1, cutoff=cutoff):
            return close[0]
    return None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """` Did you mean X?`, or an empty string."""
    found = nearest(name, names)
    return "" if found in (None, name) else f" Did you mean {found}?"


def listed(names: Iterable[Any]) -> str:
    """`a, b, c`, or `(none)`."""
    return ", ".join(str(n) for n in names) or "(none)"


def members(hint: Any) -> tuple[Any, ...]:
    """The members of a union; any other type is its own only member."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def describe(hint: Any, limits: Mapping[str, Any]) -> str:
    """The values that a type and bounds allow, in words: `an integer or null, at least 0`, `one of a, b`."""
    parts = [m for m in members(hint) if not (m is int and float in members(hint))]
    bounds = " and ".join(f"{word} {limits[name]}" for name, (word, _) in _LIMITS.items() if name in limits)
    return " or ".join(_describe_one(p) for p in parts) + (f", {bounds}" if bounds else "")


def _describe_one(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {listed(get_args(hint))}"
    if get_origin(hint) is list:
        return f"a list of {_PLURAL[get_args(hint)[0]]}"
    if get_origin(hint) is dict:
        key, value = get_args(hint)
        return f"a mapping of {_PLURAL[key]} to {' or '.join(map(_plural, members(value)))}"
    return _WORDS[hint]


def _plural(hint: Any) -> str:
    if get_origin(hint) is list:
        return f"lists of {_PLURAL[get_args(hint)[0]]}"
    return _PLURAL.get(hint, "options")


_LIMITS = {
    "ge": ("at least", operator.ge),
    "gt": ("above", operator.gt),
    "le": ("at most", operator.le),
    "lt": ("below", operator.lt),
}


def within(value: float, limits: Mapping[str, Any]) -> bool:
    """Whether a number is finite and within its bounds."""
    return math.isfinite(value) and all(
        holds(value, limits[name]) for name, (_, holds) in _LIMITS.items() if name in limits
    )


def typed_as(text: str) -> str:
    """` (typed: ...)`, the end of a message about an override."""
    return f" (typed: {text if len(text) <= 200 else text[:197] + '...'})"


def show(value: Any) -> str:
    """A value as a user would type it, truncated if long."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def kind_of(value: Any) -> str:
    """The name of a value's type with its article: `an int`."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def counted(count: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{count} {noun}{'s' * (count != 1)}"
