"""Hydra's config loader with mmft's search path; every user file is inspected before it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.default_element import ResultDefault
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmft.config.sources import conf_dir
from mmft.config.store import register
from mmft.config.yaml_files import inspect

_USER = "command-line"

_HYDRA_NODE: dict[str, Any] = {
    "launcher": {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"},
    "sweeper": {
        "_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
        "max_batch_size": None,
        "params": None,
    },
    "callbacks": {},
    "searchpath": [],
    "hydra_logging": {"version": 1, "root": None, "disable_existing_loggers": False},
    "job_logging": {"version": 1, "root": None, "disable_existing_loggers": False},
    "output_subdir": None,
}
"""What Hydra would instantiate or write. A config that differs from these values is refused."""


class InspectedRepository(ConfigRepository):
    """Loads an empty config instead of any user file that `inspect` refuses.

    Attributes:
        refused: why files were refused.
        files: the source file of each loaded config.
    """

    def __init__(self, config_search_path: Any) -> None:
        self.refused: list[str] = []
        self.files: dict[str, Path] = {}
        super().__init__(config_search_path)

    def __deepcopy__(self, memo: Any) -> InspectedRepository:
        """Returns itself: Hydra copies the repository for every composition, but findings must be collected once."""
        return self

    def load_config(self, config_path: str) -> ConfigResult | None:
        """The config at `config_path`, or None if it does not exist."""
        if ".." in config_path.split("/"):
            raise ComposeError(f"{config_path}: '..' is not allowed in a config's name")
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is not None and source.scheme() == "file":  # Hydra loads its plugins twice: no isinstance
            name = config_path.removesuffix(".yaml")
            file = Path(source.path) / f"{name}.yaml"
            if source.provider == _USER and (refused := inspect(file, name)):
                self.refused.extend(r for r in refused if r not in self.refused)
                return ConfigResult(_USER, str(file), OmegaConf.create(), {"package": "_global_"}, [], True)
            self.files[name] = file
        if (result := super().load_config(config_path)) is not None:
            result.is_schema_source = True  # files extend schemas by their defaults lists, never by their names alone
        return result


class Loader(ConfigLoaderImpl):
    """Composes a command's config, and for `--info` and `--hydra-help` tells how."""

    repository: InspectedRepository
    merged: Sequence[tuple[list[str], Path]] = ()
    """Package and file of every config in the last composition, in merge order."""

    def __init__(self, command: str, config_dirs: Sequence[Path] = ()) -> None:
        version.setbase("1.3")
        Plugins.instance()  # registers the kinds of sources
        register(command)
        path = ConfigSearchPathImpl()
        path.append("hydra", "pkg://hydra.conf")
        for folder in config_dirs:
            path.append(_USER, f"file://{folder.absolute()}")
        path.append("main", f"file://{conf_dir()}")
        path.append("schema", "structured://")
        super().__init__(path)
        self.repository = InspectedRepository(path)

    def compose(self, command: str, overrides: list[str]) -> DictConfig:
        """The composed config, including its `hydra` node.

        Raises:
            ComposeError: the files cannot be combined.
        """
        try:
            config = self.load_configuration(command, overrides, RunMode.RUN)
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, AssertionError, OSError) as error:
            raise ComposeError(_reason(error)) from error
        self._check_hydra(config)
        return config

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        files = self.repository.files
        self.merged = [
            (d.package.split(".") if d.package else [], files[d.config_path])
            for d in defaults
            if d.config_path in files
        ]
        return super()._compose_config_from_defaults_list(defaults, repo)

    def _check_hydra(self, config: DictConfig) -> None:
        node = OmegaConf.to_container(config.hydra, resolve=False)
        assert isinstance(node, dict)
        wrong = [key for key, expected in _HYDRA_NODE.items() if node.get(key) != expected]
        wrong += [f"job.{key}" for key in ("env_set", "env_copy") if node["job"][key]]
        if wrong:
            raise ComposeError(f"hydra.{', hydra.'.join(wrong)}: Hydra's settings are managed by mmft; remove them")


class ComposeError(ConfigCompositionException):
    """The files cannot be combined; the message is for the user."""


def _reason(error: BaseException) -> str:
    """The message of the innermost cause, without Hydra's advice on search paths."""
    while error.__cause__ is not None and not str(error):
        error = error.__cause__
    return " ".join(str(error).split("\nSearch path:")[0].split())
