"""The rules that a field declares in its metadata (`mmft.config.fields.field`).

- `only_with="decay=0.999"`: the field has no effect unless its neighbour `decay` is set; with `==`, unless it has
  exactly this value. The message suggests typing the same text.
- `not_with={"train": "what to do instead"}`: the field does not go with its neighbour `train` if that is set; with
  `"loss==focal"`, if `loss` has exactly this value.
- `needs_val=True`: the field needs validation rows.
- `needs_trained_encoder=True`: the field has no effect if both encoders are frozen.

A name with a dot is an absolute key; without a dot, a neighbour in the same section.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Any

from mmft.config.registry import OptionConfig
from mmft.config.rules.base import SPLITS, encoders_are_frozen, no_val
from mmft.config.schema.root import TrainConfig
from mmft.config.validate import Problem
from mmft.config.walk import default_of

_UNSET = (None, "none", 0, "")


def shape_problems(config: Any) -> Iterator[tuple[Problem, tuple[str, ...]]]:
    """Problems found by the fields' metadata, each with the keys that were read for it."""
    for key, f in given(config):
        section = key.rpartition(".")[0]
        if "only_with" in f.metadata:
            other, exact, example = _condition(f.metadata["only_with"], section)
            actual = _value(config, other)
            if actual != example if exact else actual in _UNSET:
                because = f"without {other}" if actual in _UNSET else f", because {other}={actual}"
                text = f"changes nothing{'' if because[0] == ',' else ' '}{because}. Type {other}={example}"
                yield Problem(key, f"{text}, or leave it out"), (key, other)
        for condition, instead in f.metadata.get("not_with", {}).items():
            other, exact, value = _condition(condition, section)
            if _value(config, other) == value if exact else _is_given(config, other):
                with_what = f"{other}={value}" if exact else other
                yield Problem(key, f"does not go with {with_what}: {instead}"), (key, other)
        if not isinstance(config, TrainConfig):
            continue
        if f.metadata.get("needs_val") and (why := no_val(config)):
            yield Problem(key, f"needs validation rows, but {why}"), (key, *SPLITS)
        if f.metadata.get("needs_trained_encoder") and encoders_are_frozen(config):
            text = "changes nothing, because both encoders are frozen. Leave it out, or type tune=full"
            yield Problem(key, text), (key, "tune")


def given(section: Any, path: str = "") -> Iterator[tuple[str, Field[Any]]]:
    """Every key whose value differs from its default: dotted key and field."""
    for f in fields(section):
        key, value = f"{path}{f.name}", getattr(section, f.name)
        if is_dataclass(value):
            yield from given(value, f"{key}.")
        elif isinstance(value, Mapping) and any(isinstance(one, OptionConfig) for one in value.values()):
            for name, one in value.items():
                yield from given(one, f"{key}.{name}.") if is_dataclass(one) else ()
        elif value != default_of(f):
            yield key, f


def _condition(text: str, section: str) -> tuple[str, bool, str]:
    """The absolute key that a rule names, whether it must have exactly the value, and the value."""
    name, _, example = text.partition("=")
    key = name if "." in name or not section else f"{section}.{name}"
    return key, example.startswith("="), example.lstrip("=")


def _value(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else getattr(config, part, None)
    return config


def _is_given(config: Any, key: str) -> bool:
    section, _, name = key.rpartition(".")
    holder = _value(config, section) if section else config
    found = [f for f in fields(holder) if f.name == name] if is_dataclass(holder) else []
    return bool(found) and getattr(holder, name) != default_of(found[0])
