"""Plain nested mappings, as read from YAML, by dotted key; an index is the name of a list's element."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def get(values: Any, key: str) -> Any:
    """The value or section at a dotted key."""
    for part in key.split("."):
        values = values[int(part) if isinstance(values, list) else part]
    return values


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets the value or section at a dotted key."""
    head, _, last = key.rpartition(".")
    holder: Any = get(values, head) if head else values
    holder[int(last) if isinstance(holder, list) else last] = value


def flat(values: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens sections to dotted keys; a mapping with numeric keys (a schedule by epoch) is a value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        section = isinstance(value, dict) and all(isinstance(name, str) for name in value)
        found |= flat(value, f"{prefix}{key}.") if section else {f"{prefix}{key}": value}
    return found


def texts_of(value: Any) -> Iterator[str]:
    """Every text in a plain value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from texts_of(key)
            yield from texts_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_of(inner)
