"""Reading a mapping by a schema: conversions, bounds, defaults, required values, round trips."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mmft.config.compose import recompose
from mmft.config.docs import doc
from mmft.config.fields import field
from mmft.config.overrides import parse_override
from mmft.config.schema.root import COMMANDS, TrainConfig
from mmft.config.store import default_values
from mmft.config.validate import WrongType, convert, read, to_dict
from mmft.config.walk import key_names, keys
from mmft.config.wording import describe, nearest


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (3, int, 3),
        (3, float, 3.0),
        (3, int | float, 3),
        (0.5, int | float, 0.5),
        (3, str, "3"),
        (0.1, str | None, "0.1"),
        (None, str | None, None),
        ("a", str | list[str] | None, "a"),
        (["a", 1], str | list[str] | None, ["a", "1"]),
        ({0: 32}, dict[int, int] | None, {0: 32}),
        ("none", Literal["none", "x"] | list[float], "none"),
        ([1, 2.5], Literal["none", "x"] | list[float], [1.0, 2.5]),
        (False, bool, False),
    ],
)
def test_converts(value: Any, hint: Any, expected: Any) -> None:
    result = convert(value, hint)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("3", int),
        (3.0, int),
        (True, int),
        (True, float),
        (True, str),
        (1, bool),
        ("3.0", float),
        (None, int),
        (float("nan"), float),
        (float("inf"), float | None),
        ([1, None], list[float]),
        ({"a": 1}, dict[int, int]),
        ({0: 1.5}, dict[int, int]),
        (1, Literal["a"]),
        (True, Literal["true"]),
        ({}, str),
    ],
)
def test_does_not_repair(value: Any, hint: Any) -> None:
    with pytest.raises(WrongType):
        convert(value, hint)


@dataclass(kw_only=True)
class Inner:
    share: float = field(0.5, ge=0, lt=1)


@dataclass(kw_only=True)
class Root:
    must: int
    inner: Inner = field(factory=Inner)
    names: list[str] = field(factory=list)


def test_every_problem_at_once() -> None:
    found = read({"inner": {"share": 1, "shre": 2}, "extra": {"a": 1}, "names": "x"}, Root).problems
    assert [p.key for p in found] == ["extra.a", "must", "inner.shre", "inner.share", "names"]


def test_defaults_and_missing() -> None:
    assert read({"must": 1}, Root).config == Root(must=1)
    assert [p.key for p in read({"must": "???"}, Root).problems] == ["must"]
    assert read({}, Root, partial=True).problems == []
    first, second = (read({"must": 1}, Root).config for _ in range(2))
    assert first.names is not second.names


@pytest.mark.parametrize("values", [None, 3, "x", []])
def test_not_a_mapping(values: Any) -> None:
    assert "is not a section" in read(values, Root).problems[0].text
    assert read({"must": 1, "inner": values}, Root).problems[0].key == "inner"


def complete() -> dict[str, Any]:
    """A complete config as plain values."""
    values = default_values(TrainConfig)
    sections = {"data", "checkpoint", "callbacks", "trainer"}
    from mmft.config.store import schemas as schemas_of

    schemas = dict(schemas_of(TrainConfig, "train"))
    values |= {name: default_values(schemas[name]) for name in sections}
    chosen = {"task": "classification", "optim": "sgd", "schedule": "wsd", "logger": "none"}
    values |= {group: default_values(schemas[f"{group}/{name}"]) for group, name in chosen.items()}
    values["tune"] = {encoder: {"type": "freeze"} for encoder in ("image_encoder", "text_encoder")}
    encoders = {encoder: default_values(schemas[f"model/{encoder}"]) | {"name": "a/b"} for encoder in values["tune"]}
    values["model"] = {**encoders, "fusion": {"type": "concat"}}
    values["data"]["columns"] |= {"text": ["a", "b"], "label": "l"}
    return values


def test_round_trip(tmp_path: Any) -> None:
    values = complete()
    table = tmp_path / "rows.csv"
    table.touch()
    values["data"]["path"] = str(table)
    config = recompose("train", values).config
    assert recompose("train", to_dict(config)).config == config
    assert to_dict(config)["tune"]["image_encoder"] == {"type": "freeze"}


@pytest.mark.parametrize("group", ["task", "optim", "tune.image_encoder", "model.fusion"])
def test_unknown_option(group: str) -> None:
    values = complete()
    section: Any = values
    for part in group.split("."):
        section = section[part]
    for wrong, expected in (("_", f"{group}.type"), (None, group)):
        section["type"] = wrong
        assert expected in [p.key for p in read(values, TrainConfig).problems]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_is_documented(command: str) -> None:
    for key, owner, f, _ in keys(COMMANDS[command].config):
        assert len(doc(owner, f.name)) > 10, key


def test_overrides_in_the_documentation_can_be_typed() -> None:
    parser, read = OverridesParser.create(), set()
    for command in COMMANDS:
        for _, owner, f, _ in keys(COMMANDS[command].config):
            for example in re.findall(r"`(\"?[a-z_]+\.[a-z_.]+=[^`]+)`", doc(owner, f.name)):
                [typed] = shlex.split(example)
                parse_override(parser, typed)
                read.add(typed)
    assert "task.templates=['an image of {}']" in read
    assert "task.tasks='{größe:regression,kind:classification}'" in read


@pytest.mark.parametrize("command", COMMANDS)
def test_every_default_is_allowed(command: str) -> None:
    from mmft.config.fields import REQUIRED
    from mmft.config.walk import hints

    for key, owner, f, _ in keys(COMMANDS[command].config):
        assert describe(hints(owner)[f.name], f.metadata)
        if f.default is not REQUIRED:
            assert convert(f.default, hints(owner)[f.name]) == f.default, key


def test_nearest() -> None:
    names = key_names(TrainConfig)
    assert nearest("batch_size", names) == "data.batch_size"
    assert nearest("optim.leaning_rate", names) is None or "optim" in str(nearest("optim.leaning_rate", names))
    assert nearest("qqqqq", names) is None
