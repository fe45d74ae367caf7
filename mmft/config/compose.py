"""From the command line to a typed config: compose leniently, then validate strictly, reporting all errors at once.

Hydra composes the chosen options. Value overrides are then applied one by one, so that composing does not stop at the
first wrong key. `mmft.config.validate` and `mmft.config.rules` find the problems, and each message names its origin:
the override as typed, or the YAML file and line.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmft.config import pretrained_models, rules, validate
from mmft.config.interpolation import ALLOWED, escaped, resolve
from mmft.config.loader import ComposeError, Loader
from mmft.config.nested import get, put
from mmft.config.overrides import Refused, Typed, is_hydra_override, key_of, read_overrides
from mmft.config.plugins import import_plugins
from mmft.config.provenance import Provenance
from mmft.config.rules.probe import typed_in_vain
from mmft.config.schema.root import COMMANDS, trains
from mmft.config.schema.sweep import SweepConfig
from mmft.config.sources import Groups
from mmft.config.sweeps import compared_by_itself, is_sweep_override, read_sweep, without_effect
from mmft.config.validate import Problem
from mmft.config.walk import keys_and_sections
from mmft.config.wording import show
from mmft.config.yaml_files import inspect
from mmft.errors import UserError, first_line

DEFAULT_EXPERIMENT = "experiment=clipart"
"""The default of `mmft train` if no override specifies rows.

Not in the defaults list: users who name their own rows must also name columns and encoders, rather than silently
inherit those of the sample.
"""
_ROWS = {"experiment", "data", "data.path", "data.train", "data.val", "data.test", "data.root"}

MOST_COMBINATIONS = 256  # larger sweeps are not validated for every combination


@dataclass
class Composed:
    """A valid config and its origin.

    Attributes:
        command: one of `COMMANDS`.
        config: the typed root (`TrainConfig` ...).
        raw: the composed config with unresolved interpolations.
        typed: the overrides as typed.
        choices: the chosen option of each group.
        lines: the overrides as Hydra accepts them for any key, known or not.
        parsed: the parsed overrides, with all values of a sweep.
        sweep: sweeper and launcher; None if this is not a sweep.
    """

    command: str
    config: Any
    raw: DictConfig
    typed: list[str] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    parsed: list[Typed] = field(default_factory=list)
    sweep: SweepConfig | None = None

    def resolved_for_disk(self) -> dict[str, Any]:
        """The complete config as plain values, from which `recompose` restores the same config.

        Values that depend on an environment variable stay unresolved; a literal `${` is escaped.
        """
        values: dict[str, Any] = escaped(validate.to_dict(self.config))
        raw = OmegaConf.to_container(self.raw, resolve=False)
        for key in resolve(self.raw).env_keys:
            put(values, key, get(raw, key))
        return values


def compose(
    command: str,
    overrides: Sequence[str],
    config_dirs: Sequence[str | Path] = (),
    *,
    multirun: bool = False,
    partial: bool = False,
) -> Composed:
    """Composes and validates a command's config.

    Args:
        command: one of `COMMANDS`.
        overrides: as typed.
        config_dirs: folders of YAML files, searched before mmft's own.
        multirun: comma-separated lists are sweeps; every combination is validated, and the first is returned.
        partial: required values may be missing, and files need not exist (to show a config).

    Raises:
        UserError: lists everything that is wrong.
    """
    folders = [Path(d) for d in config_dirs]
    import_typed_plugins(overrides, folders)
    return _Composition(command, folders, multirun, partial).run(list(overrides))


def import_typed_plugins(overrides: Sequence[str], config_dirs: Sequence[Path]) -> None:
    """Imports the modules that `plugins` names, on the command line or in a chosen file of the user's.

    This comes before composition, because what is composed may choose their options.

    Raises:
        UserError: code is not allowed, or a module cannot be imported.
    """
    found: Any = []
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        if key == "plugins":
            found = value
        elif "," not in value:
            for file in (folder / key / f"{value}.yaml" for folder in config_dirs):
                if not found and file.is_file() and not inspect(file, f"{key}/{value}"):
                    found = OmegaConf.to_container(OmegaConf.load(file), resolve=False).get("plugins", [])  # type: ignore[union-attr]
    if isinstance(found, str):
        found = [one.strip().strip("'\"") for one in found.strip("[]").split(",")]
    if isinstance(found, list):  # anything else is refused where types are
        import_plugins(str(one) for one in found if one and one != "null")


def recompose(
    command: str, values: Mapping[str, Any], typed: Sequence[str] = (), choices: Mapping[str, str] | None = None
) -> Composed:
    """Validates an already composed config, such as a run's config.yaml.

    Raises:
        UserError: lists everything that is wrong.
    """
    try:
        raw = OmegaConf.create(dict(values))
    except OmegaConfBaseException as error:  # OmegaConf parses every `${` as it reads
        raise UserError(f"{error.full_key or 'config'}: {first_line(error)} {ALLOWED}") from None
    named = raw.get("plugins")
    import_plugins(named if isinstance(named, ListConfig) else ())
    config, problems = _judge(command, raw, partial=False)
    if problems:
        raise UserError(f"{p.key}: {p.text}" for p in problems)
    return Composed(command, config, raw, list(typed), _own_choices(choices or {}))


def _judge(command: str, raw: DictConfig, *, partial: bool) -> tuple[Any, list[Problem]]:
    """The typed config and all its problems."""
    resolved = resolve(raw)
    unresolved = {p.key for p in resolved.problems}
    if trains(command):
        pretrained_models.name_encoders(resolved.values)
    result = validate.read(resolved.values, COMMANDS[command].config, partial=partial)
    problems = resolved.problems + [p for p in result.problems if p.key not in unresolved]
    if result.config is not None and not partial:
        problems += rules.check(result.config, {p.key for p in problems})
    return result.config, problems


def _own_choices(choices: Any) -> dict[str, str]:
    return {str(g): str(o) for g, o in choices.items() if o is not None and str(g).split("/")[0] != "hydra"}


class _Composition:
    """One call of `compose`."""

    def __init__(self, command: str, config_dirs: list[Path], multirun: bool, partial: bool) -> None:
        missing = [str(d) for d in config_dirs if not d.is_dir()]
        if missing:
            raise UserError(f"--config-dir: {d} is not a folder" for d in missing)
        self.command, self.multirun, self.partial = command, multirun, partial
        self.loader = Loader(command, config_dirs)
        self.groups = Groups(config_dirs)
        self.messages: list[str] = []
        self.first: Composed | None = None
        self.made: dict[tuple[str, ...], Any] = {}  # the config of every combination, by its overrides

    def run(self, overrides: list[str]) -> Composed:
        """Composes and validates every config that the overrides define."""
        for_hydra = [o for o in overrides if is_hydra_override(o)]
        own = [o for o in overrides if not is_hydra_override(o)]
        sweeps = [o for o in own if self.command == "train" and is_sweep_override(o)]
        own = [o for o in own if o not in sweeps]
        sweep, wrong = read_sweep(sweeps, multirun=self.multirun)
        self.messages += wrong
        if trains(self.command) and not any(names_rows(o) for o in own):
            own.append(DEFAULT_EXPERIMENT)
        if trains(self.command):
            own += pretrained_models.defaults(own, DEFAULT_EXPERIMENT)
        search = any(o.partition("=")[2] == "optuna" for o in sweeps)
        typed, refused = read_overrides(self.command, own, self.groups, multirun=self.multirun, search=search)
        self.messages += [r.message for r in refused]
        self.messages += pretrained_models.named_twice(typed)
        chosen = [t for t in typed if t.is_group]
        values = [t for t in typed if not t.is_group]
        for choice in itertools.product(*(t.lines for t in chosen)):
            self._choice([*filter(None, choice), *for_hydra], values, refused, choice)
        if self.multirun and self.first is not None:
            self.messages += compared_by_itself(self.first.config, values)
            self.messages += without_effect([*chosen, *values], self.made)
        unique = list(dict.fromkeys(self.loader.repository.refused + self.messages))
        if unique or self.first is None:
            raise UserError(unique)
        self.first.typed = overrides
        self.first.lines += [*(t.line for t in typed if t.line), *for_hydra]
        self.first.parsed, self.first.sweep = typed, sweep if self.multirun else None
        return self.first

    def _choice(self, lines: list[str], values: list[Typed], refused: list[Refused], choice: tuple[str, ...]) -> None:
        """Composes one choice of options and validates it with every combination of swept values."""
        more: list[str] = []
        try:
            raw = self.loader.compose(self.command, lines)
            if trains(self.command):
                typed = [t.key for t in values] + [key_of(line) for line in lines]
                files = [file for _, file in self.loader.merged]
                if more := pretrained_models.fusion_of_files(raw, typed, files):
                    raw = self.loader.compose(self.command, [*lines, *more])
        except ComposeError as error:
            self.messages.append(str(error))
            return
        choices = _own_choices(raw.hydra.runtime.choices)
        OmegaConf.set_struct(raw, False)
        del raw["hydra"]
        provenance = Provenance(values, self.loader.merged)
        for combination in _combinations(values):
            own = copy.deepcopy(raw)
            problems = [p for t, v in combination if (p := _apply(own, t, v))]
            config, found = _judge(self.command, own, partial=self.partial)
            problems += self._worth_saying(found, refused)
            if config is not None and trains(self.command):
                problems += typed_in_vain(config, [t.key for t in values] + [key_of(line) for line in lines])
            self.messages += [_message(p, provenance) for p in problems]
            self.first = self.first or Composed(self.command, config, own, choices=choices, lines=more)
            self.made[(*choice, *(repr(value) for _, value in combination))] = config

    def _worth_saying(self, problems: list[Problem], refused: list[Refused]) -> Iterator[Problem]:
        """Skips problems that only follow from a refused override or file."""
        keys = [r.key.replace("/", ".") for r in refused]
        unread = any("." not in k for k in keys) or bool(self.loader.repository.refused)
        for problem in problems:
            under = any(problem.key == k or problem.key.startswith(f"{k}.") for k in keys)
            if not under and not (unread and problem.text.startswith(validate.MUST)):
                yield problem


def names_rows(override: str) -> bool:
    """Whether an override specifies the rows to train on, or how to read them."""
    key = key_of(override)
    return key in _ROWS or key.startswith(("data.columns", "data.test."))


def _message(problem: Problem, provenance: Provenance) -> str:
    missing = problem.text.startswith(validate.MUST)
    return f"{problem.key}: {problem.text}{'' if missing else provenance.of(problem.key)}"


def _apply(config: DictConfig, typed: Typed, value: Any) -> Problem | None:
    """Sets one value as Hydra's `++key=value` does, but never in place of a value that would be its section.

    In place of an option's name within a mapping (`task.tasks.price`) it does, and validation says what to type.
    """
    parts = typed.key.split(".")
    for count in range(1, len(parts)):
        parent = ".".join(parts[:count])
        held = OmegaConf.select(config, parent)
        if (
            held is not None
            and not isinstance(held, DictConfig)
            and parent in keys_and_sections(*(root for root, _ in COMMANDS.values()))
        ):
            return Problem(parent, f"is {show(held)}, beside which {typed.key} cannot be set. Leave one of them out")
    try:
        OmegaConf.update(config, typed.key, value, merge=True, force_add=True)
    except (OmegaConfBaseException, ValueError, TypeError, AttributeError, RecursionError) as error:
        return Problem(typed.key, f"cannot be set: {first_line(error)}")
    return None


def _combinations(values: list[Typed]) -> Iterator[list[tuple[Typed, Any]]]:
    """Every combination of swept values; for a large sweep, every value once, with the first values of the others."""
    if math.prod(len(typed.values) for typed in values) <= MOST_COMBINATIONS:
        yield from ([*zip(values, c, strict=True)] for c in itertools.product(*(t.values for t in values)))
        return
    first = [(t, t.values[0]) for t in values]
    yield first
    for i, typed in enumerate(values):
        for value in typed.values[1:]:
            yield [*first[:i], (typed, value), *first[i + 1 :]]
