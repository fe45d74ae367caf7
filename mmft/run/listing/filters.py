"""Filters of `mmft runs`: any `KEY=VALUE` or `GROUP=OPTION` of `mmft train`, parsed and validated as there.

`seed=0,1` matches either value. The command's own keys (`sort`, `limit`, ...) are composed as for other commands;
errors in either are reported together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, NamedTuple

from mmft.config.compose import Composed, compose
from mmft.config.overrides import Typed, is_hydra_override, read_overrides
from mmft.config.schema.root import RunsConfig, TrainConfig
from mmft.config.sources import Groups
from mmft.config.validate import WrongType, convert
from mmft.config.walk import key_names, sections, types_of
from mmft.config.wording import describe, did_you_mean, listed, show
from mmft.errors import UserError


class Filter(NamedTuple):
    """Keeps runs whose config has one of these values."""

    key: str  # dotted; for a group, its path below conf/
    is_group: bool
    values: list[Any]


def compose_runs(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> tuple[Composed, list[Filter]]:
    """The config of `mmft runs`, and the filters.

    Raises:
        UserError: with all errors.
    """
    own, filters = split_overrides(overrides)
    groups = Groups(config_dirs)
    messages: list[str] = []
    composed, found = None, []
    try:
        composed = compose("runs", own, config_dirs)
    except UserError as error:
        messages += error.messages
    typed, refused = read_overrides("train", filters, groups, multirun=True)
    messages += [r.message for r in refused]
    for one in typed:
        try:
            found.append(_filter(one, groups))
        except UserError as error:
            messages += error.messages
    if messages or composed is None:
        raise UserError(messages)
    composed.typed = list(overrides)
    return composed, found


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates the command's own overrides, with `compare=a,b` as a list, from the filters."""
    known = {*key_names(RunsConfig), *sections(RunsConfig)}
    own, filters = [], []
    for text in overrides:
        key, given, value = text.partition("=")
        name = key.lstrip("+~")
        if name == "compare" and "," in value and value[0] not in "['\"":
            own.append(f"{key}=[{value}]")
        elif not given or name in known or is_hydra_override(text):
            own.append(text)
        else:
            filters.append(text)
    return own, filters


def _filter(typed: Typed, groups: Groups) -> Filter:
    """A filter on a key and values that configs can have.

    Raises:
        UserError: they cannot.
    """
    if typed.is_group:
        return Filter(typed.key, True, [None if v is None else str(v) for v in typed.values])
    types = types_of(TrainConfig, typed.key)
    if not types:
        near = did_you_mean(typed.key, [*key_names(RunsConfig), *key_names(TrainConfig), *groups.names()])
        own = listed(key_names(RunsConfig))
        raise UserError(
            f"{typed.key}: no such key.{near} Keys of mmft runs: {own}; any other key of mmft train filters "
            f"(typed: {typed.text})"
        )
    return Filter(typed.key, False, [_value(typed, value, reduce(or_, types)) for value in typed.values])


def _value(typed: Typed, value: Any, hint: Any) -> Any:
    try:
        return convert(value, hint)
    except WrongType:
        expected = describe(hint, {})
        raise UserError(
            f"{typed.key}: {show(value)} is not allowed; expected {expected} (typed: {typed.text})"
        ) from None
