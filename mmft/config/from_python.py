"""Python values as the overrides that a shell would be given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from functools import cache
from os import PathLike, fspath
from typing import Any

from mmft.config.quoted import list_of, quoted
from mmft.config.schema.root import TrainConfig
from mmft.config.walk import key_names
from mmft.config.wording import kind_of
from mmft.errors import UserError


def overrides_of(given: Iterable[str] | Mapping[str, Any]) -> list[str]:
    """Overrides of a list of them, or of a mapping from keys to values, which may be nested.

    >>> overrides_of({"tune": "lora", "optim": {"lr": 1e-4}, "data.columns.text": "my title", "name": None})
    ['tune=lora', 'optim.lr=0.0001', "data.columns.text='my title'", 'name=null']

    Raises:
        UserError: it is neither, or has a value that no override can hold.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        example = given if isinstance(given, str) else "optim.lr=1e-4"
        raise UserError(f"overrides: {given!r} given. Give a list of them, such as [{example!r}], or a dict")
    if not isinstance(given, Mapping):
        return [str(one) for one in given]
    return [f"{key}={value_of(key, value)}" for key, value in _flat("", given)]


def swept(over: Mapping[str, Any]) -> list[str]:
    """Overrides with several values each, for a sweep.

    >>> swept({"optim.lr": [1e-4, 1e-3], "tune": ["lora", "full"]})
    ['optim.lr=0.0001,0.001', 'tune=lora,full']

    Raises:
        UserError: it is no mapping, what is given for a key is no list of values, or one that no override can hold.
    """
    if not isinstance(over, Mapping):
        raise UserError(f"over: {over!r} given. Give a dict of lists, such as {{'optim.lr': [1e-4, 1e-3]}}")
    for key, values in over.items():
        if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
            raise UserError(f"over: {key}: {values!r} given. Give a list of the values to try, such as [{values!r}]")
        if isinstance(values, Sized) and not len(values):
            raise UserError(f"over: {key}: the list is empty. Give the values to try")
    return [f"{key}={','.join(value_of(key, value) for value in values)}" for key, values in over.items()]


def value_of(key: str, value: Any) -> str:
    """A Python value as typed behind `key=`.

    Raises:
        UserError: no override can hold it.
    """
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, (str, PathLike)):
        return _text(str(fspath(value)))
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # a number of numpy or torch
        return value_of(key, value.item())
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        inner = ",".join(f"{name}:{value_of(key, one)}" for name, one in value.items())
        return "{" + inner + "}"
    if isinstance(value, (list, tuple)):
        if all(isinstance(one, str) for one in value):
            return list_of(value)
        return f"[{','.join(value_of(key, one) for one in value)}]"
    tables = "; tables go into rows, val and test" if is_table(value) else ""
    raise UserError(
        f"{key}: {kind_of(value)} given, which a config cannot hold. Give a number, text or list{tables}; "
        "objects of your own go to the trainer that mmft.compose(...) returns, or are options (docs/extend.md)"
    )


def _text(text: str) -> str:
    listed = list_of([text])[1:-1]  # in quotes where Hydra's grammar needs them
    return listed if listed != text or not _read_as_something_else(text) else quoted(text)


def _read_as_something_else(text: str) -> bool:
    """Whether a text without quotes would become a number, a truth value or null."""
    if text.lower() in ("true", "false", "null", "inf", "nan"):
        return True
    try:
        float(text.replace("_", ""))
    except ValueError:
        return False
    return True


@cache
def _keys() -> frozenset[str]:
    return frozenset(key_names(TrainConfig))


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; a mapping that is the value of one key stays whole (`task.tasks`)."""
    for name, value in values.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, Mapping) and key not in _keys():
            yield from _flat(key, value)
        else:
            yield key, value


def is_table(value: Any) -> bool:
    """Whether a value is a DataFrame, an Arrow table, a `datasets` set or the like."""
    return hasattr(value, "columns") or hasattr(value, "column_names")
