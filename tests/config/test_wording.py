"""Suggestions for unknown names."""

from __future__ import annotations

import pytest

from mmft.config.registry import options
from mmft.config.schema.root import TrainConfig
from mmft.config.sources import Groups
from mmft.config.validate import read
from mmft.config.walk import key_names
from mmft.config.wording import _HABITS, did_you_mean


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
    ours = {*key_names(TrainConfig), *(name for group in Groups([]).names() for name in Groups([]).options(group))}
    assert ours.isdisjoint(_HABITS)
    assert ours.issuperset(_HABITS.values())


def test_the_message_names_it() -> None:
    problems = read({"trainer": {"gradient_clip_val": 1.0}}, TrainConfig).problems
    assert any(p.key == "trainer.gradient_clip_val" and "mean optim.clip_norm?" in p.text for p in problems)
