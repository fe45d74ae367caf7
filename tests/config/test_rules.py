"""The rules that fields state themselves name fields that are there, and what they say to type is taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, fields
from typing import Any

import pytest

from mmft.config.rules.base import RULES
from mmft.config.schema.root import COMMANDS, TrainConfig
from mmft.config.validate import convert
from mmft.config.walk import hints, key_names, keys


def with_rules(name: str) -> Iterator[tuple[str, type, Any, Field[Any]]]:
    """Every field that has a rule of this name: its key, its dataclass, the rule."""
    found = {(key, owner): f for root, _ in COMMANDS.values() for key, owner, f, _ in keys(root) if name in f.metadata}
    yield from ((key, owner, f.metadata[name], f) for (key, owner), f in found.items())


@pytest.mark.parametrize(
    ("key", "owner", "rule", "_"), list(with_rules("only_with")), ids=lambda value: str(value)[:40]
)
def test_what_to_type_is_a_neighbours_value(key: str, owner: type, rule: str, _: Field[Any]) -> None:
    name, _, example = rule.partition("=")
    neighbours = hints(getattr(owner, "documented_by", owner))
    assert name in {*neighbours, *key_names(TrainConfig)}, key
    if example not in ("FILE", "[NAME,NAME]", "COLUMN"):
        typed: Any = example.lstrip("=")
        number = typed.replace(".", "").isdigit()
        value = (float(typed) if "." in typed else int(typed)) if number else typed
        assert convert(value, neighbours[name]) == value


@pytest.mark.parametrize(("key", "owner", "rule", "_"), list(with_rules("not_with")), ids=lambda value: str(value)[:40])
def test_what_does_not_go_together_is_there(key: str, owner: type, rule: dict[str, str], _: Field[Any]) -> None:
    known = {f.name for f in fields(getattr(owner, "documented_by", owner))}
    known |= {name for root, _ in COMMANDS.values() for name in key_names(root)}
    assert {name.partition("==")[0] for name in rule} <= known, key


def test_rules_read_keys_that_are_there() -> None:
    known = {key for root, _ in COMMANDS.values() for key in key_names(root)}
    sections = {key.rsplit(".", count)[0] for key in known for count in range(1, key.count(".") + 1)}
    assert {key for rule in RULES for key in rule.keys} <= known | sections
