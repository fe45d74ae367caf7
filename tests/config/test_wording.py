"""Suggestions for unknown names."""

from __future__ import annotations

from typing import Any

import pytest

from mmft.cli.flags import parse_flags
from mmft.config.habits import KEYS, OPTIONS
from mmft.config.quoted import requoted
from mmft.config.registry import options
from mmft.config.schema.root import TrainConfig
from mmft.config.sources import Groups
from mmft.config.validate import read
from mmft.config.walk import key_names
from mmft.config.wording import did_you_mean
from mmft.errors import UserError


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("optim.lrr", "optim.lr"),
        ("batch_size", "data.batch_size"),
        ("lr", "optim.lr"),
        ("trainer.gpus", "trainer.devices"),
        ("trainer.gradient_clip_val", "optim.clip_norm"),
        ("trainer.log_every_n_steps", "trainer.log_every_steps"),
        ("trainer.check_val_every_n_epoch", "trainer.val_every_epochs"),
    ],
)
def test_a_key_of_another_program(typed: str, meant: str) -> None:
    assert did_you_mean(typed, key_names(TrainConfig)) == f" Did you mean {meant}?"


def test_an_option_of_another_name() -> None:
    assert did_you_mean("vqa", options("task")) == " Did you mean question_answering?"


def test_habits_are_no_keys_and_mean_some() -> None:
    keys, groups = key_names(TrainConfig), Groups([]).names()
    assert {*keys, *groups}.isdisjoint(KEYS)
    assert {*keys, *groups}.issuperset(KEYS.values())
    names = {name for group in groups if group != "experiment" for name in Groups([]).options(group)}
    assert names.isdisjoint(OPTIONS)
    assert names.issuperset(OPTIONS.values())


@pytest.mark.parametrize("name", KEYS)
def test_a_key_of_another_framework_leads_to_ours(name: str) -> None:
    """As typed with or without a section; the message is the whole way, from a mapping to words."""
    for typed in (name, f"trainer.{name.rpartition('.')[2]}") if "." not in name else (name,):
        values: Any = 1
        for part in reversed(typed.split(".")):
            values = {part: values}
        problems = read(values, TrainConfig).problems
        assert [p.text for p in problems if p.key == typed and f"Did you mean {KEYS[name]}?" in p.text], typed


def test_a_flag_of_another_framework_leads_to_our_key() -> None:
    with pytest.raises(UserError, match=r"--learning-rate: no such flag. Type optim.lr=VALUE"):
        parse_flags(["--learning-rate", "1e-4"])


def test_the_message_names_it() -> None:
    problems = read({"trainer": {"gradient_clip_val": 1.0}}, TrainConfig).problems
    assert any(p.key == "trainer.gradient_clip_val" and "mean optim.clip_norm?" in p.text for p in problems)


@pytest.mark.parametrize(
    ("typed", "advised"),
    [
        ("[größe,a b]", "['größe','a b']"),
        ("['größe',日本]", "['größe','日本']"),
        ('[größe,under_score,"a, b"]', "['größe',under_score,'a, b']"),
        ("[x:1,ö]", "'[x:1,ö]'"),
        ("ö", "'ö'"),
    ],
)
def test_lists_are_quoted_element_by_element(typed: str, advised: str) -> None:
    assert requoted(typed) == advised
