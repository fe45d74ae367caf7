"""Which option of which group is described by which dataclass and builds which class.

An option is one choice in a group (`optim=adamw`, `model/fusion=concat`). Its dataclass is registered here under the
option's short name together with the class that it builds, named as text so that nothing heavy is imported before a
run really starts. The choice itself, its help and its completion are made from this registry; `conf/` has a file only
where an option sets more than its own defaults. Nothing else is ever instantiated: a config or a checkpoint cannot
name what to import.

    @option("model/fusion", "concat", builds="mmft.models.fusion.concat:ConcatFusion")
    @dataclass(kw_only=True)
    class Concat(FusionConfig): ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any, ClassVar, NamedTuple, TypeVar


class OptionConfig:
    """Base of the dataclasses of options; `option` fills both attributes.

    The base of a group that a mapping of names holds options of (`dict[str, TaskConfig]`) names the group itself.
    """

    group_path: ClassVar[str]
    type: ClassVar[str]


T = TypeVar("T", bound=OptionConfig)


class Option(NamedTuple):
    """One registered option."""

    group: str
    name: str
    schema: type[OptionConfig]
    builds: str | Callable[..., Any]  # "module:Class", imported only when built; or the class itself


_OPTIONS: dict[str, dict[str, Option]] = {}
_SECTIONS: dict[str, dict[str, type]] = {}


def option(group: str, name: str, builds: str | Callable[..., Any] = "") -> Callable[[type[T]], type[T]]:
    """Class decorator: registers a dataclass as option `name` of `group`.

    Args:
        group: path of the group below `conf/`, for example `model/fusion`.
        name: the option's short name; the config's `type` key holds it.
        builds: `module:Class` of what the option builds; its constructor takes every field but `type`. Empty: the
            command itself reads the option. The class itself, where its module is imported anyway.
    """

    def register(schema: type[T]) -> type[T]:
        _OPTIONS.setdefault(group, {})[name] = Option(group, name, schema, builds)
        schema.group_path, schema.type = group, name
        return schema

    return register


S = TypeVar("S", bound=type)


def section(group: str, name: str = "default") -> Callable[[S], S]:
    """Class decorator: `group=name` is this schema with its defaults, in a group that has no options of its own.

    Args:
        group: path of the group, for example `trainer`.
        name: what the choice is called.
    """

    def register(schema: S) -> S:
        _SECTIONS.setdefault(group, {})[name] = schema
        return schema

    return register


def choices() -> dict[str, dict[str, type]]:
    """Every group that can be chosen from without a YAML file: its schemas by name."""
    found = {group: dict(named) for group, named in _SECTIONS.items()}
    for group, named in _OPTIONS.items():
        found.setdefault(group, {}).update({name: one.schema for name, one in named.items()})
    return found


def options(group: str) -> dict[str, Option]:
    """The options of `group` by name, in the order of registration."""
    return dict(_OPTIONS.get(group, {}))


def groups() -> list[str]:
    """All groups that have registered options."""
    return list(_OPTIONS)


def class_of(config: OptionConfig) -> Any:
    """The class that the option `config` is registered to build; imports its module."""
    builds = _OPTIONS[config.group_path][config.type].builds
    if not isinstance(builds, str):
        return builds
    module, _, name = builds.partition(":")
    return getattr(import_module(module), name)


def arguments(config: Any, but: type | None = None) -> dict[str, Any]:
    """The fields of a dataclass as keyword arguments, one level deep, without those of the base `but`."""
    left_out = {f.name for f in fields(but)} if but is not None else set()
    return {f.name: getattr(config, f.name) for f in fields(config) if f.name not in left_out}


def build(config: OptionConfig, *, but: type | None = None, **context: Any) -> Any:
    """Builds what the option `config` is registered to build; options that it holds by name are built first.

    Args:
        config: an instance of a registered dataclass.
        but: a base whose fields are not passed, because someone else reads them.
        context: what is known only at run time (widths, label names), passed along by keyword.
    """
    given = {name: _built(value) for name, value in arguments(config, but).items()}
    return class_of(config)(**given, **context)


def _built(value: Any) -> Any:
    """A mapping of names to options as what they build; any other value as it is."""
    if not isinstance(value, Mapping) or not any(isinstance(one, OptionConfig) for one in value.values()):
        return value
    return {name: build(one) for name, one in value.items()}
