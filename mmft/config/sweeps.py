"""The settings of a sweep: `hydra/sweeper`, `hydra/launcher`, and the keys below them.

They are validated like all other keys but are not part of a run's config. Hydra never sees them: its `hydra` node stays
as shipped, so that no override can name a class to import.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from mmft.config import validate
from mmft.config.overrides import Typed, Wrong, parse_override
from mmft.config.schema.sweep import GROUPS, JoblibLauncherConfig, MultirunConfig, OptunaSweeperConfig, SweepConfig
from mmft.config.store import default_values
from mmft.config.validate import Problem
from mmft.config.walk import group_options
from mmft.config.wording import typed_as

_PACKAGES = {"optuna": "optuna", "joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit"}
"""Maps an option to the package that it needs, which is also the name of mmft's extra."""


def is_sweep_override(text: str) -> bool:
    """Whether an override is a setting of the sweep."""
    key = text.partition("=")[0].lstrip("+")
    return key in GROUPS or any(key == (own := g.replace("/", ".")) or key.startswith(f"{own}.") for g in GROUPS)


def read_sweep(texts: Sequence[str], *, multirun: bool) -> tuple[SweepConfig, list[str]]:
    """The sweeper and the launcher.

    Args:
        texts: the overrides for which `is_sweep_override` is true, as typed.
        multirun: whether this is a sweep.

    Returns:
        The settings, and all problems; with any problem, the settings are the defaults.
    """
    chosen: dict[str, Any] = dict.fromkeys(GROUPS, "basic")
    values: dict[str, Any] = {}
    typed: dict[str, str] = {}
    wrong: list[str] = []
    parser = OverridesParser.create()
    for text in texts:
        key = text.partition("=")[0].lstrip("+")
        try:
            override = parse_override(parser, text)
            if not multirun:
                raise Wrong(f"{key}: belongs to a sweep, which needs -m. Type mmft train -m {text}")
            if override.is_sweep_override() or "${" in text:
                raise Wrong(f"{key}: must be one plain value, which is the same for the whole sweep")
            (chosen if key in GROUPS else values)[key] = override.value()
            typed[key] = typed_as(text)
        except Wrong as error:
            wrong.append(str(error))
    tree = OmegaConf.create({"hydra": {group.partition("/")[2]: _defaults(group, chosen[group]) for group in GROUPS}})
    for key, value in values.items():
        OmegaConf.update(tree, key, value, force_add=True)
    result = validate.read(OmegaConf.to_container(tree), MultirunConfig)
    problems = result.problems if wrong or result.problems else _check(result.config.hydra)
    wrong += [f"{problem.key}: {problem.text}{typed.get(problem.key, '')}" for problem in problems]
    return read_sweep([], multirun=True)[0] if wrong else result.config.hydra, wrong


def _defaults(group: str, name: Any) -> dict[str, Any]:
    """The option's section with its defaults; an unknown option is left to validation."""
    option = group_options(group.replace("/", ".")).get(str(name))
    return {"type": name} if option is None else default_values(option.schema)


def without_effect(typed: Sequence[Typed], made: Mapping[tuple[str, ...], Any]) -> list[str]:
    """Messages about keys whose values all give the same config, since something typed later replaces them.

    Args:
        typed: what was typed, groups first.
        made: the config of every combination by its values, one for each of `typed`; None if it is invalid.
    """
    messages = []
    for place, one in enumerate(typed):
        if one.span is None and len(one.values) < 2:
            continue
        alike: dict[tuple[str, ...], list[Any]] = {}
        for values, config in made.items():
            alike.setdefault((*values[:place], *values[place + 1 :]), []).append(config)
        groups = [configs for configs in alike.values() if len(configs) > 1 and None not in configs]
        if groups and all(config == configs[0] for configs in groups for config in configs):
            later = [other.text for other in typed if other is not one and one.key.startswith(other.key)]
            why = f"{later[-1]} replaces them" if later else "they are the same"
            messages.append(f"{one.key}: all values of the sweep give the same run: {why}. Leave one of them out")
    return messages


def _check(settings: SweepConfig) -> list[Problem]:
    """Problems of valid options on this machine: a missing package or cluster."""
    problems = []
    for group, option in (("hydra/sweeper", settings.sweeper), ("hydra/launcher", settings.launcher)):
        package = _PACKAGES.get(option.type)
        if package is not None and find_spec(package) is None:
            text = f"{option.type} needs {package}, which is not installed. Type: pip install 'mmft[{package}]'"
            problems.append(Problem(group, text))
    if isinstance(settings.launcher, JoblibLauncherConfig) and settings.launcher.n_jobs == 0:
        problems.append(Problem("hydra.launcher.n_jobs", "0 would start no runs. Type 1 or more, or -1"))
    sampler = settings.sweeper.sampler if isinstance(settings.sweeper, OptunaSweeperConfig) else ""
    if sampler == "gp" and find_spec("scipy") is None:
        text = f"{sampler} needs scipy, which is not installed. Type: pip install 'mmft[optuna]'"
        problems.append(Problem("hydra.sweeper.sampler", text))
    if settings.launcher.type == "submitit_slurm" and shutil.which("srun") is None:
        text = "submitit_slurm: srun was not found on this machine. Run it on a node of a SLURM cluster"
        problems.append(Problem("hydra/launcher", text))
    return problems


def compared_by_itself(config: Any, values: list[Typed]) -> list[str]:
    """Refuses a sweep that changes the combined loss of several tasks and also selects by it."""
    if config is None or None in (config.task, config.checkpoint):  # what was given is no section
        return []
    if not config.task.parts or config.checkpoint.monitor is not None:
        return []
    swept = [t.key for t in values if t.key.startswith("task.") and (t.span is not None or len(t.values) > 1)]
    if not swept:
        return []
    example = next(iter(config.task.parts))
    return [
        f"{swept[0]}: changes the meaning of val/loss, by which the runs of this sweep are compared. "
        f"Type checkpoint.monitor with a metric of one task, such as checkpoint.monitor={example}/accuracy"
    ]
