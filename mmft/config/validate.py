"""Strict conversion of a plain mapping to a typed config and back, reporting all errors at once.

A schema is a dataclass: annotations define the allowed values, `field` the bounds, and a field without a default is
required. A section that is a group (`optim`) is read with the schema of the option that its `type` key names. Nothing
is repaired: `"3.0"` is not an integer, `true` is not a number, and an unknown key is an error. An integer is accepted
as a float, and a number as a string if only strings are allowed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any, Literal, NamedTuple, get_args, get_origin

from mmft.config.habits import meant
from mmft.config.nested import texts_of
from mmft.config.quoted import mapping_in
from mmft.config.registry import OptionConfig, choices
from mmft.config.walk import (
    MISSING,
    default_of,
    group_options,
    has_default,
    hints,
    is_group,
    key_names,
    named_group,
    sections,
)
from mmft.config.wording import describe, did_you_mean, listed, members, nearest, show, within

DEFAULT = "default"  # the option of a section without a `type`, if its group has an option of this name
NO_CODE = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")  # these make Hydra import and call something
MUST = "must be given"  # starts the text of every problem about a missing value


class Problem(NamedTuple):
    """One problem: the dotted key, and what is wrong with it."""

    key: str
    text: str


class WrongType(ValueError):
    """A value does not match its type."""


@dataclass
class Validation:
    """The result of reading a mapping: the config (None where it could not be built) and all problems."""

    config: Any = None
    problems: list[Problem] = field(default_factory=list)


def read(values: Any, schema: type, *, partial: bool = False) -> Validation:
    """Reads a plain mapping with a schema and collects all problems.

    Args:
        values: the mapping with interpolations resolved; `???` marks a required value that is missing.
        schema: the dataclass of the command.
        partial: required values may be missing.
    """
    reader = _Reader(schema, partial)
    config = reader.section(values, schema, "")
    return Validation(config, reader.problems)


def to_dict(config: Any) -> dict[str, Any]:
    """The inverse of `read`: plain values, with the `type` of every option."""
    named = isinstance(config, OptionConfig)
    values: dict[str, Any] = {"type": config.type} if named else {}
    return values | {f.name: _plain(getattr(config, f.name)) for f in fields(config)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return to_dict(value) if is_dataclass(value) else value


class _Reader:
    """Walks a mapping along a schema; each wrong or missing value becomes None and a problem."""

    def __init__(self, root: type, partial: bool) -> None:
        self.root = root
        self.partial = partial
        self.problems: list[Problem] = []

    def section(self, values: Any, schema: type, path: str, group: str | None = None) -> Any:
        """A mapping as an instance of `schema`; None if it is not a mapping or its option is unknown.

        `group`: the path under which the group's options are registered; None: `path`.
        """
        if not isinstance(values, Mapping):
            self._not_a_section(values, schema, path)
            return None
        given = dict(values)
        if is_group(schema):
            chosen = group_options(group or path).get(str(given.pop("type", DEFAULT)))
            if chosen is None:
                self._unknown_option(values.get("type"), path, group or path)
                return None
            schema = chosen.schema
        self._unknown_keys(given, schema, path)
        return schema(**{f.name: self._field(given, schema, f, path) for f in fields(schema)})

    def _field(self, given: dict[str, Any], schema: type, f: Field[Any], path: str) -> Any:
        key = f"{path}.{f.name}" if path else f.name
        inner = sections(schema).get(f.name)
        if inner is not None:
            return self.section(given.get(f.name, {}), inner, key)
        value = given.get(f.name, MISSING)
        if value == MISSING:
            return self._missing(schema, f, key)
        hint = hints(schema)[f.name]
        if isinstance(value, str) and any(get_origin(member) is dict for member in members(hint)):
            value = mapping_in(value)
        of_options = named_group(hint)
        if of_options is None or (value is None and type(None) in members(hint)):
            return self._value(value, hint, f.metadata, key)
        return self._named(value, of_options, key)

    def _named(self, values: Any, group: type[OptionConfig], key: str) -> dict[str, Any] | None:
        """A mapping of names to options of `group`, which may be given by name alone."""
        path = group.group_path
        if not isinstance(values, Mapping) or not values:
            example = f"{key}={{NAME:{next(iter(group_options(path)), 'OPTION')}}}"
            self._problem(key, f"{show(values)} is not a mapping of names to options of {path}, such as {example}")
            return None
        sections = {str(n): {"type": one} if isinstance(one, str) else one for n, one in values.items()}
        return {name: self.section(one, group, f"{key}.{name}", path) for name, one in sections.items()}

    def _missing(self, schema: type, f: Field[Any], key: str) -> Any:
        if has_default(f):
            return default_of(f)
        if not self.partial:
            from mmft.config.docs import doc

            self._problem(key, f"{MUST}. {doc(schema, f.name)} Type {key}=VALUE")
        return None

    def _value(self, value: Any, hint: Any, limits: Mapping[str, Any], key: str) -> Any:
        allowed = describe(hint, limits)
        try:
            value = convert(value, hint)
        except WrongType:
            choices = [str(c) for m in members(hint) if get_origin(m) is Literal for c in get_args(m)]
            near = did_you_mean(value, choices) if isinstance(value, str) else ""
            self._problem(key, f"{show(value)} is not allowed; expected {allowed}.{near}")
            return None
        if "\0" in "".join(texts_of(value)):
            self._problem(key, f"{show(value)} has a null character, which no path and no text may have")
            return None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and not within(value, limits):
            self._problem(key, f"{show(value)} is out of bounds; expected {allowed}")
            return None
        return value

    def _unknown_keys(self, given: dict[str, Any], schema: type, path: str) -> None:
        known = [f.name for f in fields(schema)]
        for name, value in given.items():
            if name not in known:
                self._unknown_key(f"{path}.{name}" if path else str(name), str(name), value, schema, path)

    def _unknown_key(self, key: str, name: str, value: Any, schema: type, home: str) -> None:
        """Reports a key, and all keys below it, that `schema`, the section at `home`, does not have."""
        if name in NO_CODE:
            self._problem(key, "is not allowed: mmft imports and calls nothing that a config names")
        elif owner := _owner(key, schema):
            self._problem(key, owner)
        elif isinstance(value, Mapping) and value:
            for inner, v in value.items():
                self._unknown_key(f"{key}.{inner}", str(inner), v, schema, home)
        else:
            self._problem(key, f"no such key.{self._suggestion(key, schema, home)}")

    def _suggestion(self, key: str, schema: type, home: str) -> str:
        siblings = [f.name for f in fields(schema)]
        name = key.removeprefix(f"{home}.")
        near = None if "." in name else nearest(name, siblings)
        keys = key_names(self.root)
        found = meant(key, [*keys, *sections(self.root), *self._groups()])
        found = found or (f"{home}.{near}".lstrip(".") if near else nearest(key, keys))
        where = f"Keys of {home}" if home else "Keys and sections"
        return (f" Did you mean {found}?" if found else "") + f" {where}: {listed(siblings)}"

    def _groups(self) -> list[str]:
        """The groups below the root's sections."""
        return [group for group in choices() if group.partition("/")[0] in sections(self.root)]

    def _not_a_section(self, values: Any, schema: type, path: str) -> None:
        group, named = path.replace(".", "/"), group_options(path)
        schema = named[DEFAULT].schema if DEFAULT in named else schema
        if is_group(schema):
            choose = f"Choose an option with {group}=NAME, where NAME is one of {listed(named)}"
        else:
            choose = f"Set one of its keys: {listed(f'{path}.{f.name}' for f in fields(schema))}"
        self._problem(path or "(the config)", f"{show(values)} is not a section. {choose}")

    def _unknown_option(self, name: Any, path: str, of: str) -> None:
        group, names = of.replace(".", "/"), list(group_options(of))
        if name in (None, MISSING):
            typed = f"{group}=NAME" if path == of else f"{path}.type=NAME"
            self._problem(path, f"has no option. Type {typed}, where NAME is one of {listed(names)}")
        else:
            near = did_you_mean(str(name), names)
            self._problem(f"{path}.type", f"{show(name)} is not an option of {group}.{near} Options: {listed(names)}")

    def _problem(self, key: str, text: str) -> None:
        self.problems.append(Problem(key, text))


def _owner(key: str, schema: type) -> str | None:
    """The message for a key that only other options of the same group have."""
    if not issubclass(schema, OptionConfig):
        return None
    head, _, name = key.rpartition(".")
    schemas: dict[str, Any] = {o: option.schema for o, option in group_options(head).items()}
    owners = [o for o, found in schemas.items() if name in hints(found)]
    if not owners:
        return None
    group, here = head.replace(".", "/"), schema.type
    belongs = " and ".join(f"{group}={o}" for o in owners)
    return f"belongs to {belongs}, not to {group}={here}. Type {group}={owners[0]}, or leave {key} out"


def convert(value: Any, hint: Any) -> Any:
    """Converts a value to its type or raises `WrongType`; in a union, exact matches precede conversions."""
    for exact in (True, False):
        for member in members(hint):
            try:
                return _convert_one(value, member, exact)
            except WrongType:
                continue
    raise WrongType


def _convert_one(value: Any, hint: Any, exact: bool) -> Any:
    origin = get_origin(hint)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in get_args(hint)):
            raise WrongType
        return value
    if origin is list and isinstance(value, list):
        return [convert(v, get_args(hint)[0]) for v in value]
    if origin is dict and isinstance(value, Mapping):
        key, inner = get_args(hint)
        return {convert(_as_key(k, key), key): convert(v, inner) for k, v in value.items()}
    if origin is None and type(value) is hint and not (hint is float and not math.isfinite(value)):
        return value
    if not exact and hint is float and type(value) is int:
        return float(value)
    if not exact and hint is str and type(value) in (int, float):
        return str(value)
    raise WrongType


def _as_key(value: Any, hint: Any) -> Any:
    """A key of a mapping, which JSON keeps as a text, as a number where that is wanted."""
    return int(value) if hint is int and isinstance(value, str) and re.fullmatch(r"-?\d+", value) else value
