"""Rules about how a language model writes its answers: keys of `task` that do not go together."""

from __future__ import annotations

from dataclasses import fields

from mmft.config.rules.base import rule
from mmft.config.schema.decoding import DecodingConfig
from mmft.config.schema.root import TrainConfig
from mmft.config.validate import Problem
from mmft.config.walk import default_of
from mmft.config.wording import listed, show

_OF_SAMPLING = ("top_k", "top_p", "sampling_seed")
_KEYS = [f"task.{f.name}" for f in fields(DecodingConfig)]


@rule(*_KEYS)
def _of_training(c: TrainConfig) -> list[Problem]:
    assert isinstance(c.task, DecodingConfig)
    return decoding_problems(c.task)


def decoding_problems(c: DecodingConfig) -> list[Problem]:
    """What does not go together among the keys of `task` that say how answers are written."""
    typed = {f.name for f in fields(DecodingConfig) if getattr(c, f.name) != default_of(f)}
    found = _of_choices(c, typed)
    if c.temperature and c.num_beams > 1:
        found.append(_problem("temperature", c, "does not go with task.num_beams. Choose sampling or beams"))
    if not c.temperature:
        unread = "changes nothing, because nothing is sampled. Type task.temperature=1, or leave it out"
        found += [_problem(name, c, unread) for name in _OF_SAMPLING if name in typed]
    if "" in c.stop:
        found.append(_problem("stop", c, "an empty text would end every answer. Leave it out"))
    return found


def _of_choices(c: DecodingConfig, typed: set[str]) -> list[Problem]:
    if c.choices is None:
        return []
    unread = "changes nothing with task.choices, of which the likeliest is taken. Leave it out"
    found = [_problem(name, c, unread) for name in sorted(typed - {"choices", *_OF_SAMPLING})]
    names = [name.strip() for name in c.choices] if isinstance(c.choices, list) else ["one", "two"]
    if len(names) < 2 or len(set(names)) < len(names) or "" in names:
        many = f"{listed(names)}: " if names else ""
        text = f"{many}give at least two answers, without duplicates or empty ones"
        found.append(Problem("task.choices", text))
    return found


def _problem(name: str, c: DecodingConfig, text: str) -> Problem:
    return Problem(f"task.{name}", f"{show(getattr(c, name))} {text}")
