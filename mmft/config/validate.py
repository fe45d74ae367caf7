"""From a plain mapping to a typed config, strictly, with every error at once; and back.

A schema is a dataclass: annotations say what a value may be, `field` its bounds, a missing default that
it must be given. A section that is a group (`optim`) is read by the option that its `type` key names.
Nothing is repaired: `"3.0"` is no whole number, `true` is no number, an unknown key is an error. A whole
number is taken where a number is allowed, and a number where only a text is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, get_args, get_origin

from mmft.config.quoted import mapping_in
from mmft.config.registry import OptionConfig
from mmft.config.walk import (
    MISSING,
    NO_CODE,
    group_options,
    has_default,
    hints,
    is_group,
    key_names,
    named_group,
    sections,
)
from mmft.config.wording import bounds, describe, did_you_mean, listed, members, nearest, show, within

DEFAULT = "default"  # the option of a section that does not say which it is, in a group that has one so called
MUST = "must be given"  # begins the text of every problem that is a missing value


class Problem(NamedTuple):
    """One thing that is wrong: the dotted key, and what about it."""

    key: str
    text: str


class WrongType(ValueError):
    """A value that its type does not allow."""


@dataclass
class Validation:
    """What reading a mapping gave: the config (None where it could not be built) and all problems."""

    config: Any = None
    problems: list[Problem] = field(default_factory=list)


def read(values: Any, schema: type, *, partial: bool = False) -> Validation:
    """Reads a plain mapping by a schema and finds everything that is wrong with it.

    Args:
        values: the mapping, interpolations resolved; `???` marks a value that must still be given.
        schema: the dataclass of the command.
        partial: values that must be given may still be missing.
    """
    reader = _Reader(schema, partial)
    config = reader.section(values, schema, "")
    return Validation(config, reader.problems)


def to_dict(config: Any) -> dict[str, Any]:
    """The inverse of `read`: plain values, with the `type` of every option."""
    named = isinstance(config, OptionConfig)
    values: dict[str, Any] = {"type": config.type} if named else {}
    for f in fields(config):
        value = getattr(config, f.name)
        values[f.name] = _plain(value)
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return to_dict(value) if is_dataclass(value) else value


@cache
def accepts_text(schema: type, key: str) -> bool:
    """Whether the value of a dotted key is a text and no number: `007` is then the text as typed."""
    from mmft.config.walk import keys

    found = [hints(owner)[f.name] for name, owner, f, _ in keys(schema) if name == key]
    return any(str in members(h) and not {int, float} & set(members(h)) for h in found)


class _Reader:
    """Walks a mapping along a schema; wrong or missing values become None and a problem."""

    def __init__(self, root: type, partial: bool) -> None:
        self.root = root
        self.partial = partial
        self.problems: list[Problem] = []

    def section(self, values: Any, schema: type, path: str, group: str | None = None) -> Any:
        """A mapping as an instance of `schema`; None if it is no mapping or its option is unknown.

        `group`: where the options of a group are registered; None: under `path`.
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
            return self._missing(f, key)
        hint = hints(schema)[f.name]
        if isinstance(value, str) and any(get_origin(member) is dict for member in members(hint)):
            value = mapping_in(value)
        of_options = named_group(hint)
        if of_options is None or (value is None and type(None) in members(hint)):
            return self._value(value, hint, f.metadata, key)
        return self._named(value, of_options, key)

    def _named(self, values: Any, group: type[OptionConfig], key: str) -> dict[str, Any] | None:
        """A mapping of names to options of `group`, or to their names."""
        path = group.group_path
        if not isinstance(values, Mapping) or not values:
            example = f"{key}={{NAME:{next(iter(group_options(path)), 'OPTION')}}}"
            self._problem(key, f"{show(values)} is no mapping of names to options of {path}, such as {example}")
            return None
        sections = {str(n): {"type": one} if isinstance(one, str) else one for n, one in values.items()}
        return {name: self.section(one, group, f"{key}.{name}", path) for name, one in sections.items()}

    def _missing(self, f: Field[Any], key: str) -> Any:
        if has_default(f):
            return f.default_factory() if callable(f.default_factory) else f.default
        if not self.partial:
            from mmft.config.docs import field_doc

            self._problem(key, f"{MUST}. {field_doc(self.root, key)} Type {key}=VALUE")
        return None

    def _value(self, value: Any, hint: Any, limits: Mapping[str, Any], key: str) -> Any:
        allowed = describe(hint) + (f", {bounds(limits)}" if limits else "")
        try:
            value = convert(value, hint)
        except WrongType:
            near = did_you_mean(value, _choices(hint)) if isinstance(value, str) else ""
            self._problem(key, f"{show(value)} is not allowed; allowed is {allowed}.{near}")
            return None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and not within(value, limits):
            self._problem(key, f"{show(value)} is out of bounds; allowed is {allowed}")
            return None
        return value

    def _unknown_keys(self, given: dict[str, Any], schema: type, path: str) -> None:
        known = [f.name for f in fields(schema)]
        for name, value in given.items():
            if name not in known:
                self._unknown_key(f"{path}.{name}" if path else str(name), str(name), value, schema, path)

    def _unknown_key(self, key: str, name: str, value: Any, schema: type, home: str) -> None:
        """Notes a key, and what is below it, that `schema`, the section at `home`, does not have."""
        if name in NO_CODE:
            self._problem(key, "is not allowed: nothing that a config names is imported or called by mmft")
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
        found = nearest(key, key_names(self.root)) if near is None else f"{home}.{near}".lstrip(".")
        where = f"Keys of {home}" if home else "Keys and sections"
        return (f" Did you mean {found}?" if found else "") + f" {where}: {listed(siblings)}"

    def _not_a_section(self, values: Any, schema: type, path: str) -> None:
        group, named = path.replace(".", "/"), group_options(path)
        schema = named[DEFAULT].schema if DEFAULT in named else schema
        if is_group(schema):
            choose = f"choose an option with {group}=NAME, NAME one of {listed(named)}"
        else:
            choose = f"set one of its keys: {listed(f'{path}.{f.name}' for f in fields(schema))}"
        self._problem(path or "(the config)", f"{show(values)} is not a section; {choose}")

    def _unknown_option(self, name: Any, path: str, of: str) -> None:
        group, names = of.replace(".", "/"), list(group_options(of))
        if name in (None, MISSING):
            typed = f"{group}=NAME" if path == of else f"{path}.type=NAME"
            self._problem(path, f"has no option. Type {typed}, NAME one of {listed(names)}")
        else:
            near = did_you_mean(str(name), names)
            self._problem(f"{path}.type", f"{show(name)} is no option of {group}.{near} Options: {listed(names)}")

    def _problem(self, key: str, text: str) -> None:
        self.problems.append(Problem(key, text))


def _owner(key: str, schema: type) -> str | None:
    """The message for a key that another option of the same group has."""
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


def _choices(hint: Any) -> list[str]:
    return [str(c) for m in members(hint) if get_origin(m) is Literal for c in get_args(m)]


def convert(value: Any, hint: Any) -> Any:
    """The value as its type wants it, or `WrongType`. Of a union, an exact member goes before one that converts."""
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
        return _same_type(value, get_args(hint))
    if origin is list and isinstance(value, list):
        return [convert(v, get_args(hint)[0]) for v in value]
    if origin is dict and isinstance(value, Mapping):
        key, inner = get_args(hint)
        return {convert(k, key): convert(v, inner) for k, v in value.items()}
    if origin is None and type(value) is hint:
        return _finite(value)
    if not exact and hint is float and type(value) is int:
        return float(value)
    if not exact and hint is str and type(value) in (int, float):
        return str(value)
    raise WrongType


def _same_type(value: Any, allowed: tuple[Any, ...]) -> Any:
    if any(value == a and type(value) is type(a) for a in allowed):
        return value
    raise WrongType


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise WrongType
    return value
