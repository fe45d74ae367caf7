"""The schemas' defaults as nodes that YAML files extend: `defaults: [/schema/optim/sgd@_here_, _self_]`.

The nodes are plain mappings, not structured configs: Hydra's composition then never stops at a wrong
key, and `mmft.config.validate` can report all of them at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from mmft.config.registry import OptionConfig, options
from mmft.config.schema import COMMANDS
from mmft.config.walk import MISSING, has_default, is_group, sections

_stored = False


def default_values(schema: type) -> dict[str, Any]:
    """A schema's keys with their defaults; `???` where the user must give a value.

    Sections without a default (`model.image_encoder` in `model`) are left out: their own group brings them.
    """
    values: dict[str, Any] = {"type": schema.type} if issubclass(schema, OptionConfig) else {}
    inner = sections(schema)
    for f in fields(schema):
        if f.name in inner:
            if has_default(f):
                values[f.name] = default_values(inner[f.name])
        elif has_default(f):
            values[f.name] = f.default_factory() if callable(f.default_factory) else f.default
        else:
            values[f.name] = MISSING
    return values


def nodes(schema: type, path: str) -> Iterator[tuple[str, type]]:
    """All nodes below `schema/`: their path and the dataclass that they are made from."""
    if is_group(schema):
        for name, option in options(path).items():
            yield f"{path}/{name}", option.schema
        return
    yield path, schema
    for name, inner in sections(schema).items():
        yield from nodes(inner, name if path in COMMANDS else f"{path}/{name}")


def register() -> None:
    """Puts every node into Hydra's ConfigStore, once."""
    global _stored
    if _stored:
        return
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for command, root in reversed(COMMANDS.items()):  # train last: its `data` and `trainer` are the groups'
        for path, schema in nodes(root, command):
            group, _, name = f"schema/{path}".rpartition("/")
            store.store(group=group, name=name, node=default_values(schema), provider="mmft")
    _stored = True
