"""The registry as a Hydra config source, searched after the folders of YAML files.

It provides every choice that needs no file (`optim=sgd` is `optim/sgd`), and every schema for files to extend:

    defaults: [/schema/optim/sgd@_here_, _self_]

The nodes are plain mappings, not structured configs, so that Hydra's composition never stops at a wrong key and
`mmft.config.validate` can report all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from typing import Any

from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

from mmft.config.registry import OptionConfig, choices, options
from mmft.config.schema import COMMANDS
from mmft.config.schema.model import ENCODERS
from mmft.config.schema.tune import both_encoders
from mmft.config.validate import DEFAULT
from mmft.config.walk import MISSING, default_of, has_default, is_group, sections

ADDRESS = "mmft://registry"


class RegistrySource(ConfigSource):
    """Serves the registry's nodes to Hydra by path, like files in a folder."""

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        self.nodes = dict(all_nodes())

    @staticmethod
    def scheme() -> str:
        """The scheme of this source's addresses."""
        return "mmft"

    def load_config(self, config_path: str) -> ConfigResult:
        """The node at a path."""
        node = OmegaConf.create(self.nodes[config_path.removesuffix(".yaml")]())
        return ConfigResult(self.provider, self.full_path(), node, {"package": None})

    def available(self) -> bool:
        """Always true."""
        return True

    def is_config(self, config_path: str) -> bool:
        """Whether a node exists at a path."""
        return config_path.removesuffix(".yaml") in self.nodes

    def is_group(self, config_path: str) -> bool:
        """Whether any node exists below a path."""
        return any(path.startswith(f"{config_path.rstrip('/')}/") for path in self.nodes)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The names directly below a path."""
        above = f"{config_path}/" if config_path else ""
        below = [path.removeprefix(above) for path in self.nodes if path.startswith(above)]
        groups = {name.split("/")[0] for name in below if "/" in name} if results_filter != ObjectType.CONFIG else set()
        configs = {name for name in below if "/" not in name} if results_filter != ObjectType.GROUP else set()
        return sorted(groups | configs)


def register() -> None:
    """Lets Hydra read addresses that start with `mmft://`."""
    Plugins.instance().register(RegistrySource)


def all_nodes() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Every node: its path, and a function that creates it."""
    for command, root in reversed(COMMANDS.items()):  # train last, so that its `data` and `trainer` win
        for path, schema in schemas(root, command):
            yield f"schema/{path}", partial(default_values, schema)
        yield command, partial(command_root, command)
    for group, named in choices().items():
        if group.partition("/")[0] != "hydra":  # hidden from Hydra, see `mmft.config.sweeps`
            yield from ((f"{group}/{name}", partial(default_values, schema)) for name, schema in named.items())
    for name in both_encoders():
        yield f"tune/{name}", partial(tuned, name)


def command_root(command: str) -> dict[str, Any]:
    """The root of a command whose config is just its schema; roots that choose options are in `conf/`."""
    quiet = [{f"override hydra/{log}": "none"} for log in ("hydra_logging", "job_logging")]
    return {"defaults": [f"/schema/{command}@_here_", {"hydra": "mmft"}, "_self_", *quiet]}


def tuned(method: str) -> dict[str, Any]:
    """`tune=METHOD`: sets the method of both encoders."""
    return {"defaults": ["/schema/tune@_here_", *({encoder: method} for encoder in ENCODERS), "_self_"]}


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
