"""Checks of what a user's option builds, so that a mistake in it is told at once and by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

from mmft.config.wording import kind_of
from mmft.errors import UserError

_WANTED = {
    "model/fusion": ("mmft.models.fusion.base:Fusion", ("facts", "width")),
    "model/image_encoder": ("mmft.models.image_encoder:ImageEncoder", ()),
    "model/text_encoder": ("mmft.models.text_encoder:TextEncoder", ()),
    "task": ("mmft.tasks.base:Task", ("monitor", "constant")),
    "tune/image_encoder": ("mmft.tuning.methods.base:TuningMethod", ("name", "default_lr")),
    "tune/text_encoder": ("mmft.tuning.methods.base:TuningMethod", ("name", "default_lr")),
    "optim": ("torch.optim:Optimizer", ()),
    "schedule": ("mmft.training.schedules:Schedule", ()),
    "callbacks/extra": ("lightning.pytorch:Callback", ()),
    "logger": ("mmft.training.loggers.base:RunLogger", ()),
}
"""What an option of a group builds, imported only for one of a user's, and the attributes that it must have."""


def imported(where: str) -> Any:
    """The object that `module:name` names."""
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)


def built_by_user(option: str, builds: str | Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """What a user's option builds.

    Args:
        option: as typed, `model/fusion=mine`.
        builds: as registered.
        given: keyword arguments.

    Raises:
        UserError: there is nothing to build with, it takes other arguments, or it gives something else than its group
            has.
    """
    try:
        maker = imported(builds) if isinstance(builds, str) else builds
    except (ImportError, AttributeError) as error:
        raise UserError(f"{option}: builds={builds!r} cannot be imported: {error}. Name module:Class") from error
    _check_takes(option, maker, given)
    made = maker(**given)
    wanted, needed = _WANTED.get(option.partition("=")[0], ("builtins:object", ()))
    base = imported(wanted)
    if not isinstance(made, base):
        raise UserError(f"{option}: {_named(maker)} gives {_kind(made)}; it has to give a {base.__name__} ({wanted})")
    if lacking := [name for name in needed if not hasattr(made, name)]:
        raise UserError(f"{option}: {type(made).__name__} has no `{lacking[0]}`; see {wanted} and docs/extend.md")
    if wrong := next(_uncallable(made, base), None):
        raise UserError(f"{option}: {wrong}")
    return made


def _check_takes(option: str, maker: Callable[..., Any], given: Mapping[str, Any]) -> None:
    try:
        inspect.signature(maker).bind(**given)
    except ValueError:  # it has no signature to read
        return
    except TypeError as error:
        raise UserError(f"{option}: {_named(maker)} is given {', '.join(given)}, and {error}") from error


def _uncallable(made: Any, base: type) -> Iterator[str]:
    """The methods that cannot be called as those of the base class that they override."""
    for name, method in vars(base).items():
        own = inspect.getattr_static(type(made), name, None)
        if name.startswith("_") or own is method or not (inspect.isfunction(method) and inspect.isfunction(own)):
            continue
        kinds = [one.kind for one in inspect.signature(method).parameters.values()]
        places = sum(kind <= inspect.Parameter.POSITIONAL_OR_KEYWORD for kind in kinds)
        try:
            inspect.signature(own).bind(*[None] * places)
        except TypeError as error:
            yield (
                f"{type(made).__name__}.{name} is called with {places - 1} arguments, as that of {base.__name__}: "
                f"{', '.join(list(inspect.signature(method).parameters)[1:])}; {error}"
            )


def _named(maker: Any) -> str:
    return str(getattr(maker, "__qualname__", maker))


def _kind(value: Any) -> str:
    return "None" if value is None else kind_of(value)
