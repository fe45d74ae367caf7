"""The registry's choices and schemas in Hydra's `ConfigStore`, searched after the folders of YAML files.

Every choice that needs no file is a node (`optim=sgd` is `optim/sgd`), and so is every schema, for files to extend:

    defaults: [/schema/optim/sgd@_here_, _self_]

The nodes are plain mappings, not structured configs, so that Hydra's composition never stops at a wrong key and
`mmft.config.validate` can report all of them at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from hydra.core.config_store import ConfigStore

from mmft.config.registry import OptionConfig, choices, options
from mmft.config.schema.model import ENCODERS
from mmft.config.schema.root import COMMANDS, trains
from mmft.config.schema.tune import both_encoders
from mmft.config.validate import DEFAULT
from mmft.config.walk import MISSING, default_of, has_default, is_group, sections

_stored: dict[str, dict[str, Any]] = {}


def register(command: str) -> None:
    """Stores the nodes of a command; once, except for those that a plugin has added or changed since."""
    for path, node in dict(nodes(command)).items():
        group, _, name = path.rpartition("/")
        if _stored.get(path) != node:
            ConfigStore.instance().store(name, node, group=group or None, provider="mmft")
            _stored[path] = node


def nodes(command: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node of a command and its path; for a path that occurs twice, the last node counts.

    The root of a command is just its schema; roots that choose options are in `conf/`. Only commands that train have
    options.
    """
    quiet = [{f"override hydra/{log}": "none"} for log in ("hydra_logging", "job_logging")]
    roots = {command: COMMANDS[command].config} | ({"train": COMMANDS["train"].config} if trains(command) else {})
    for of, root in roots.items():  # train last, so that its `data` and `trainer` win
        name = f"{of}_command" if of in sections(COMMANDS["train"].config) else of  # `cache` is both
        for path, schema in schemas(root, of):
            yield f"schema/{name if path == of else path}", default_values(schema)
        yield of, {"defaults": [f"/schema/{name}@_here_", {"hydra": "mmft"}, "_self_", *quiet]}
    if not trains(command):
        return
    for group, named in choices().items():
        if group.partition("/")[0] != "hydra":  # hidden from Hydra, see `mmft.config.sweeps`
            yield from ((f"{group}/{name}", default_values(schema)) for name, schema in named.items())
    for name in both_encoders():
        both = ({encoder: name} for encoder in ENCODERS)
        yield f"tune/{name}", {"defaults": ["/schema/tune@_here_", *both, "_self_"]}


def schemas(schema: type, path: str) -> Iterator[tuple[str, type]]:
    """A schema and all schemas below it, by path without the prefix `schema/`."""
    if is_group(schema):
        for name, option in options(path).items():
            yield f"{path}/{name}", option.schema
            if name == DEFAULT:
                yield path, option.schema
        return
    yield path, schema
    for name, inner in sections(schema).items():
        yield from schemas(inner, name if path in COMMANDS else f"{path}/{name}")


def default_values(schema: type) -> dict[str, Any]:
    """A schema's keys with their defaults; `???` for required values.

    Sections without a default (`model.image_encoder` in `model`) are omitted, because their own group adds them.
    """
    values: dict[str, Any] = {"type": schema.type} if issubclass(schema, OptionConfig) else {}
    inner = sections(schema)
    for f in fields(schema):
        if f.name in inner:
            if has_default(f):
                values[f.name] = default_values(inner[f.name])
        elif has_default(f):
            values[f.name] = default_of(f)
        else:
            values[f.name] = MISSING
    return values
