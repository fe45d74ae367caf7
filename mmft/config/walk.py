"""Derives fields, sections, groups and keys from the schema dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from mmft.config.registry import Option, OptionConfig, options
from mmft.config.wording import members

MISSING = "???"  # OmegaConf's marker for a required value

OPTIONAL_GROUPS = ("experiment", "debug")
"""Groups that are not sections: their files set keys anywhere, and they may be null."""

DEEPEST = 16  # allowed nesting of mappings and lists; configs need four levels


def has_default(f: Field[Any]) -> bool:
    """Whether a field is optional."""
    return f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING


def default_of(f: Field[Any]) -> Any:
    """A field's default; None if the field is required."""
    if not has_default(f):
        return None
    return f.default_factory() if callable(f.default_factory) else f.default


@cache
def hints(schema: Any) -> dict[str, Any]:
    """The types of the fields; a field typed `Any` whose factory is a dataclass has that dataclass as its type."""
    found = get_type_hints(schema)
    typed = {f.name: found[f.name] for f in fields(schema)}
    for f in fields(schema):
        factory: Any = f.default_factory
        if typed[f.name] is Any and is_dataclass(factory):
            typed[f.name] = factory
    return typed


@cache
def sections(schema: Any) -> dict[str, type]:
    """The fields that are themselves schemas, by name."""
    return {name: hint for name, hint in hints(schema).items() if isinstance(hint, type) and is_dataclass(hint)}


def named_group(hint: Any) -> type[OptionConfig] | None:
    """The option group in a mapping type such as `dict[str, TaskConfig]`; None for any other type."""
    mappings = [member for member in members(hint) if get_origin(member) is dict]
    inner = get_args(mappings[0])[1] if mappings else None
    return inner if isinstance(inner, type) and issubclass(inner, OptionConfig) else None


def is_group(schema: type) -> bool:
    """Whether a section holds one of several options, identified by its `type` key."""
    return issubclass(schema, OptionConfig) and not hasattr(schema, "type")


def group_options(path: str) -> dict[str, Option]:
    """The options of the group at `path`, for example `tune.image_encoder`."""
    return options(path.replace(".", "/"))


def keys(schema: type, prefix: str = "") -> Iterator[tuple[str, type, Field[Any], str | None]]:
    """Every key below `schema` that holds a value: dotted key, dataclass, field, and name of its option.

    A group yields the keys of each of its options; outside of groups the name is None.
    """
    if is_group(schema):
        for name, option in group_options(prefix.rstrip(".")).items():
            for key, owner, f, _ in keys(option.schema, prefix):
                yield key, owner, f, name
        return
    inner = sections(schema)
    for f in fields(schema):
        if f.name in inner:
            yield from keys(inner[f.name], f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}", schema, f, None


@cache
def types_of(schema: type, key: str) -> tuple[Any, ...]:
    """The types that a dotted key's value may have, whichever options are chosen; members of unions one by one."""
    return tuple(m for name, owner, f, _ in keys(schema) if name == key for m in members(hints(owner)[f.name]))


def key_names(schema: type) -> list[str]:
    """Every dotted key below `schema`, once, in order."""
    return list(dict.fromkeys(key for key, *_ in keys(schema)))


@cache
def keys_and_sections(*schemas: type) -> frozenset[str]:
    """Every dotted key below the schemas, and what stands before a dot of one."""
    every = [key.split(".") for schema in schemas for key in key_names(schema)]
    return frozenset(".".join(parts[:count]) for parts in every for count in range(1, len(parts) + 1))
