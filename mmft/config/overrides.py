"""Parses the overrides one by one, so that all wrong ones are reported at once.

Valid overrides are normalised: `group=option` for groups, and `++key=value` for values, which Hydra applies to any
key; unknown keys are left to `mmft.config.validate`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException

from mmft.config.interpolation import interpolations
from mmft.config.nested import texts_of
from mmft.config.quoted import requoted
from mmft.config.schema.root import COMMANDS, trains
from mmft.config.search import Span, span_of
from mmft.config.sources import Groups
from mmft.config.validate import DEFAULT
from mmft.config.walk import DEEPEST, OPTIONAL_GROUPS, group_options, key_names, sections, types_of
from mmft.config.wording import did_you_mean, listed, nearest, show, typed_as

HYDRA_KEYS = ("hydra.run.dir", "hydra.sweep.dir")


def is_hydra_override(text: str) -> bool:
    """Whether an override sets one of the few Hydra keys that are allowed."""
    return text.partition("=")[0].lstrip("+") in HYDRA_KEYS and "${" not in text


def key_of(override: str) -> str:
    """The key or group of an override, dotted."""
    return override.lstrip("+~").partition("=")[0].strip().replace("/", ".")


class Typed(NamedTuple):
    """One valid override."""

    text: str  # as typed
    key: str
    is_group: bool
    values: list[Any]  # one value, all values of a sweep, or both ends of a span
    line: str  # for Hydra, with all values of a sweep; empty: no override needed
    lines: list[str]  # for Hydra, one per value of a group
    texts: list[str]  # one override per value, as typed alone
    span: Span | None = None  # the range that a search samples from, instead of `texts`


class Refused(NamedTuple):
    """One invalid override, and why."""

    key: str
    message: str


def read_overrides(
    command: str, texts: Sequence[str], groups: Groups, *, multirun: bool = False, search: bool = False
) -> tuple[list[Typed], list[Refused]]:
    """Parses the overrides of a command.

    Args:
        command: the command whose config they change.
        texts: the overrides, without those of `hydra.`.
        groups: the existing groups and options.
        multirun: whether sweeps are allowed.
        search: whether intervals are allowed too.
    """
    reader = _Reader(command, groups, multirun, search)
    typed: list[Typed] = []
    refused: list[Refused] = []
    for text in texts:
        try:
            typed.append(reader.read(text))
        except Wrong as wrong:
            refused.append(Refused(text.lstrip("+~").partition("=")[0], f"{wrong}{typed_as(text)}"))
    return typed, refused


class Wrong(ValueError):
    """An override is invalid."""


def parse_override(parser: OverridesParser, text: str) -> Override:
    """Parses one override with Hydra's grammar.

    Raises:
        Wrong: it cannot be parsed.
    """
    key, _, value = text.partition("=")
    if _depth(text) > DEEPEST:
        raise Wrong(f"{key}: nested too deeply")
    try:
        return parser.parse_override(text)
    except (HydraException, ValueError, RecursionError, AssertionError) as error:
        reason = " ".join(str(error).split("\nSee https")[0].split())
        raise Wrong(
            f"{key}: cannot be parsed: {reason}. Quote a value with spaces or special characters twice, "
            f'for the shell and for mmft: "{key}={requoted(value)}"'
        ) from error


class _Reader:
    def __init__(self, command: str, groups: Groups, multirun: bool, search: bool) -> None:
        self.root = COMMANDS[command].config
        self.command = command
        self.groups = groups
        self.multirun = multirun
        self.search = search
        self.parser = OverridesParser.create()

    def read(self, text: str) -> Typed:
        override = self._parse(text)
        key = override.key_or_group
        if key == "hydra.verbose":
            raise Wrong(f"{key}: is not needed: train.log has the debug messages, and MMFT_DEBUG=1 shows tracebacks")
        if re.split("[./]", key)[0] in ("hydra", "schema"):
            allowed = listed([*HYDRA_KEYS, "and with mmft train -m hydra/sweeper, hydra/launcher and their keys"])
            raise Wrong(f"{key}: cannot be overridden: Hydra's settings are managed by mmft. Allowed: {allowed}")
        if override.package is not None:
            raise Wrong(f"{key}@{override.package}: a package cannot be chosen. Type {key}=OPTION")
        is_group = self._is_group(text, key, override)
        key = key.replace(".", "/") if is_group else key
        if override.is_delete():
            raise Wrong(self._no_deletion(key, is_group))
        if is_group:
            return self._group(text, key, self._values(text, key, override, is_group=True))
        return self._value(text, key, override)

    def _parse(self, text: str) -> Override:
        if "=" not in text and not text.startswith("~"):
            like = nearest(text, self._names()) or "KEY"
            raise Wrong(f"{text}: is not an override.{self._near(text)} Type {like}=VALUE")
        return parse_override(self.parser, text)

    def _is_group(self, text: str, key: str, override: Override) -> bool:
        if isinstance(override.value(), dict):
            return False
        if "/" in key and not self.groups.exists(key):
            if (dotted := key.replace("/", ".")) in key_names(self.root):
                raise Wrong(f"{key}: it is a key, not a group. Type {text.replace(key, dotted, 1)}")
            near = did_you_mean(key, self.groups.names())
            raise Wrong(f"{key}: no such group.{near} Groups: {listed(self.groups.names())}")
        group = key.replace(".", "/")  # data.subset=k_center is data/subset=k_center
        if not self.groups.exists(group) or key in key_names(self.root):
            return False
        return "." not in key or self.groups.options(group) != [DEFAULT]

    def _values(self, text: str, key: str, override: Override, *, is_group: bool) -> list[Any]:
        """The value, or all values of a sweep."""
        if not override.is_sweep_override():
            return [override.value()]
        if not self.multirun:
            given = text.partition("=")[2]
            how = "" if is_group else f"; for a list, type {key}=[{given}]; for a string, type \"{key}='{given}'\""
            raise Wrong(f"{key}: several values are a sweep, which needs -m. Type mmft {self.command} -m {text}{how}")
        if override.value_type == ValueType.GLOB_CHOICE_SWEEP and is_group:
            return list(override._value.filter(self.groups.options(key)))  # type: ignore[union-attr]
        if not override.is_discrete_sweep() or override.value_type == ValueType.GLOB_CHOICE_SWEEP:
            draws = "; hydra/sweeper=optuna also samples intervals" if override.is_interval_sweep() else ""
            raise Wrong(f"{key}: a sweep needs listed values. Type {key}=1,2,3 or {key}=range(1,4){draws}")
        values = [Override._convert_value(v) for v in override.sweep_iterator()]
        if not values:
            raise Wrong(f"{key}: the sweep has no values")
        return values

    def _group(self, text: str, key: str, values: list[Any]) -> Typed:
        if not trains(self.command):
            if key == "cache":  # whose option sets one key
                return self.read(f"{key}.keep={text.partition('=')[2]}")
            raise Wrong(f"{key}: mmft {self.command} has no groups. Type {key}.KEY=VALUE; see mmft {self.command} -h")
        if values == [None] and key in OPTIONAL_GROUPS:
            return Typed(text, key, True, values, "", [""], [f"{key}=null"])
        for value in values:
            self._check_option(key, value)
        names = [str(v) for v in values]
        sign = "" if self._in_defaults(key) else "+"
        lines = [f"{sign}{key}={name}" for name in names]
        return Typed(text, key, True, values, f"{sign}{key}={','.join(names)}", lines, [f"{key}={n}" for n in names])

    def _in_defaults(self, group: str) -> bool:
        schema: Any = self.root
        for part in group.split("/"):
            schema = sections(schema).get(part) if isinstance(schema, type) else None
        return schema is not None or group in OPTIONAL_GROUPS

    def _check_option(self, group: str, value: Any) -> None:
        names = self.groups.options(group)
        if isinstance(value, list | dict) or value is None or "${" in str(value):
            raise Wrong(f"{group}: {show(value)} is not an option. Options: {listed(names)}")
        if ".." in str(value) or str(value).startswith("/") or not self.groups.has(group, str(value)):
            near = did_you_mean(str(value), names)
            raise Wrong(f"{group}: {show(value)} is not an option of this group.{near} Options: {listed(names)}")

    def _value(self, text: str, key: str, override: Override) -> Typed:
        head, _, name = key.rpartition(".")
        if name == "type" and group_options(head):
            group = head.replace(".", "/")
            raise Wrong(f"{key}: choose an option through its group. Type {group}=NAME")
        span = self._span(key, override)
        values = self._values(text, key, override, is_group=False) if span is None else [span.low, span.high]
        errors = [e for t in texts_of(values) for e in interpolations(t).errors]
        if errors:
            raise Wrong(f"{key}: {'; '.join(errors)}")
        given = text.partition("=")[2]
        types = types_of(self.root, key)
        of_text = str in types and not {int, float}.intersection(types)
        if len(values) == 1 and type(values[0]) in (int, float) and of_text:
            values, given = [given.strip()], f"'{given.strip()}'"  # keeps 2026_11 a string, not the number 202611
        swept = override.is_sweep_override() and not override.is_interval_sweep()
        texts = [f"{key}={v}" for v in override.sweep_string_iterator()] if swept else [text.lstrip("+")]
        return Typed(text, key, False, values, f"++{key}={given}", [], texts, span)

    def _span(self, key: str, override: Override) -> Span | None:
        if not (self.search and self.multirun):
            return None
        try:
            return span_of(self.root, key, override)
        except ValueError as error:
            raise Wrong(f"{key}: {error}") from error

    def _no_deletion(self, key: str, is_group: bool) -> str:
        if is_group:
            return f"{key}: a group cannot be removed. Options: {listed(self.groups.options(key))}"
        return f"{key}: a key cannot be removed.{self._near(key)} Type {key}=null if null is allowed"

    def _names(self) -> list[str]:
        return [*key_names(self.root), *self.groups.names()]

    def _near(self, key: str) -> str:
        return did_you_mean(key, self._names())


def _depth(text: str) -> int:
    """The deepest nesting of brackets."""
    steps = ((c in "[{(") - (c in "]})") for c in text)
    return max(itertools.accumulate(steps), default=0)
