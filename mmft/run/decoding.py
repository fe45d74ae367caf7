"""How a finished run of `task=generation` writes its answers, where a command or Python asks for another way."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmft.build import build_task, prepare_generation
from mmft.config.rules.decoding import decoding_problems
from mmft.config.schema.decoding import DecodingConfig
from mmft.config.validate import Problem, read
from mmft.errors import UserError
from mmft.models.language.decoding import decoding_options
from mmft.run.saved_model import SavedModel


def with_decoding(saved: SavedModel, options: Mapping[str, Any]) -> SavedModel:
    """The model with other decoding options; it shares the weights.

    Args:
        saved: the run's.
        options: keys of `DecodingConfig`; those not given are as in the run, but that with `choices` nothing is
            written and the run's way to write does not count.

    Raises:
        UserError: the run writes no texts, an option is unknown or wrong, or they do not go together.
    """
    if not options:
        return saved
    own = saved.config.task
    if not isinstance(own, DecodingConfig):
        unread = f"changes nothing: the run has task={own.type}, which writes no texts. Leave it out"
        raise UserError([f"task.{name} {unread}" for name in options])
    of_run = {} if options.get("choices") is not None else vars(decoding_options(own))
    found = read(of_run | dict(options), DecodingConfig)
    _check([Problem(f"task.{problem.key}", problem.text) for problem in found.problems])
    _check(decoding_problems(found.config))
    config = replace(own, **vars(found.config))
    task = build_task(config)
    task.load_state(saved.task.state())
    if config.choices is None:
        _check_room(saved.model, task)
    model = prepare_generation(copy.copy(saved.model), task)
    return replace(saved, model=model, task=task, config=replace(saved.config, task=config))


def _check_room(model: Any, task: Any) -> None:
    """Raises UserError if prompts of the run's length leave too few positions for the answer."""
    text = model.text_encoder
    room = model.answer_room
    if task.longest_answer > room:
        raise UserError(
            f"task.max_new_tokens={task.longest_answer}: may be at most {room} here. {text.source.name} has "
            f"{text.positions} positions, of which the run's prompts may take {text.max_length} and an image "
            f"{model.image_tokens}"
        )


def _check(problems: list[Problem]) -> None:
    if problems:
        raise UserError([f"{problem.key}: {problem.text}" for problem in problems])
