"""The registry of options: maps group and name to a config dataclass and the class that it builds.

An option is one choice in a group (`optim=adamw`, `model/fusion=concat`). Its dataclass is registered under the
option's short name, with the class that it builds given as text, so that nothing heavy is imported before a run starts.
Choices, help and completion are generated from this registry; `conf/` has a file only where an option sets more than
its own defaults. Nothing else is ever instantiated: a config or a checkpoint cannot name code to import.

    @option("model/fusion", "concat", builds="mmft.models.fusion.concat:ConcatFusion")
    @dataclass(kw_only=True)
    class Concat(FusionConfig): ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, ClassVar, NamedTuple, TypeVar

from mmft.config.own_options import built_by_user, imported
from mmft.errors import UserError


class OptionConfig:
    """Base of the option dataclasses; `option` sets both attributes.

    A base class used in a mapping of names to options (`dict[str, TaskConfig]`) sets `group_path` itself.
    """

    group_path: ClassVar[str]
    type: ClassVar[str]


T = TypeVar("T", bound=OptionConfig)


class Option(NamedTuple):
    """One registered option."""

    group: str
    name: str
    schema: type[OptionConfig]
    builds: str | Callable[..., Any]  # "module:Class", imported when built, or the class itself


_OPTIONS: dict[str, dict[str, Option]] = {}
_SECTIONS: dict[str, dict[str, type]] = {}


def option(group: str, name: str, builds: str | Callable[..., Any] = "") -> Callable[[type[T]], type[T]]:
    """Class decorator: registers a dataclass as option `name` of `group`.

    Args:
        group: path of the group below `conf/`, for example `model/fusion`.
        name: the option's short name, stored in the config's `type` key.
        builds: `module:Class` that the option builds, whose constructor takes every field but `type`; or the class
            itself, if its module is imported anyway. Empty: the command reads the option itself.
    """

    def register(schema: type[T]) -> type[T]:
        known = _OPTIONS.setdefault(group, {}).get(name)
        if known is not None and _is_mmfts(known.schema) and not _is_mmfts(schema):
            raise UserError(
                f"{group}={name} of {schema.__module__} is an option of mmft already. Register yours under another name"
            )
        _OPTIONS[group][name] = Option(group, name, schema, builds)
        schema.group_path, schema.type = group, name
        return schema

    return register


S = TypeVar("S", bound=type)


def section(group: str, name: str = "default") -> Callable[[S], S]:
    """Class decorator: registers a schema with its defaults as `group=name`, in a group without options.

    Args:
        group: path of the group, for example `trainer`.
        name: name of the choice.
    """

    def register(schema: S) -> S:
        _SECTIONS.setdefault(group, {})[name] = schema
        return schema

    return register


def choices() -> dict[str, dict[str, type]]:
    """Every group with choices that need no YAML file: its schemas by name."""
    found = {group: dict(named) for group, named in _SECTIONS.items()}
    for group, named in _OPTIONS.items():
        found.setdefault(group, {}).update({name: one.schema for name, one in named.items()})
    return found


def options(group: str) -> dict[str, Option]:
    """The options of `group` by name, in registration order."""
    return dict(_OPTIONS.get(group, {}))


def modules_of_users() -> set[str]:
    """The modules whose options and what they build are not mmft's own."""
    every = [one for named in _OPTIONS.values() for one in named.values()]
    builders = (one.builds.partition(":")[0] if isinstance(one.builds, str) else one.builds.__module__ for one in every)
    found = {*(one.schema.__module__ for one in every), *builders}
    return {module for module in found if module and module.partition(".")[0] != "mmft"}


def _is_mmfts(schema: type) -> bool:
    return schema.__module__.partition(".")[0] == "mmft"


def arguments(config: Any, but: type | None = None) -> dict[str, Any]:
    """The fields of a dataclass as keyword arguments, one level deep, except those of the base `but`."""
    left_out = {f.name for f in fields(but)} if but is not None else set()
    return {f.name: getattr(config, f.name) for f in fields(config) if f.name not in left_out}


def build(config: OptionConfig, *, but: type | None = None, **context: Any) -> Any:
    """Builds the object of the option `config`; options in its mappings are built first.

    Args:
        config: an instance of a registered dataclass.
        but: a base class whose fields are not passed, because other code reads them.
        context: values known only at run time (widths, label names), passed by keyword.
    """
    return build_with(config, **{name: _built(value) for name, value in arguments(config, but).items()}, **context)


def build_with(config: OptionConfig, **given: Any) -> Any:
    """Builds the object of the option `config` from these arguments alone.

    Raises:
        UserError: an option of a user's builds something else than its group has, or cannot be called so.
    """
    found = _OPTIONS[config.group_path][config.type]
    if not _is_mmfts(found.schema):
        return built_by_user(f"{config.group_path}={config.type}", found.builds, given)
    return (imported(found.builds) if isinstance(found.builds, str) else found.builds)(**given)


def _built(value: Any) -> Any:
    """Builds the options in a mapping of names to options; returns any other value unchanged."""
    if not isinstance(value, Mapping) or not any(isinstance(one, OptionConfig) for one in value.values()):
        return value
    return {name: build(one) for name, one in value.items()}
