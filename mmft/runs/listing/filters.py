"""What `mmft runs` filters by: any `KEY=VALUE` or `GROUP=OPTION` of `mmft train`, typed and judged as there.

`seed=0,1` is either of them. The keys of the command itself (`sort`, `limit`, ...) are composed as for the other
commands; what is wrong with either comes at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmft.config.compose import Composed, compose
from mmft.config.overrides import Typed, is_hydra_override, read_overrides
from mmft.config.schema import RunsConfig, TrainConfig
from mmft.config.sources import Groups
from mmft.config.validate import WrongType, convert
from mmft.config.walk import hints, key_names, keys, sections
from mmft.config.wording import describe, did_you_mean, listed, show
from mmft.errors import UserError


class Filter(NamedTuple):
    """Runs whose config has one of these values are kept."""

    key: str  # dotted; of a group, its path below conf/
    is_group: bool
    values: list[Any]


def compose_runs(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> tuple[Composed, list[Filter]]:
    """The config of `mmft runs`, and the filters.

    Raises:
        UserError: with everything that is wrong.
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
    """The command's own overrides, `compare=a,b` as a list, and the filters."""
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
    """A filter, whose key the runs' configs may have and whose values it may have there.

    Raises:
        UserError: they may not.
    """
    if typed.is_group:
        return Filter(typed.key, True, [None if v is None else str(v) for v in typed.values])
    allowed = [hints(owner)[f.name] for key, owner, f, _ in keys(TrainConfig) if key == typed.key]
    if not allowed:
        near = did_you_mean(typed.key, [*key_names(RunsConfig), *key_names(TrainConfig), *groups.names()])
        own = listed(key_names(RunsConfig))
        raise UserError(
            f"{typed.key}: no such key.{near} Keys of mmft runs: {own}; any other key of mmft train filters "
            f"(typed: {typed.text})"
        )
    return Filter(typed.key, False, [_value(typed, value, allowed) for value in typed.values])


def _value(typed: Typed, value: Any, allowed: list[Any]) -> Any:
    """The value as the key's type has it; options of a group may type the same key differently."""
    for hint in allowed:
        try:
            return convert(value, hint)
        except WrongType:
            continue
    words = " or ".join(dict.fromkeys(describe(hint) for hint in allowed))
    raise UserError(f"{typed.key}: {show(value)} is not allowed; allowed is {words} (typed: {typed.text})")
