"""The flags after a sub-command: the useful ones of Hydra, and none that would run foreign code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmft.config.wording import did_you_mean, listed, nearest
from mmft.errors import UserError

_REFUSED = {
    "--config-path": "type --config-dir FOLDER for your own folder",
    "-cp": "type --config-dir FOLDER for your own folder",
    "--config-name": "the sub-command chooses the config; type experiment=NAME for your own",
    "-cn": "the sub-command chooses the config; type experiment=NAME for your own",
    "--experimental-rerun": "it loads a pickle, which can run any code; type resume=RUN, or the run's overrides.yaml",
    "--package": "type --cfg job",
    "-p": "type --cfg job",
    "--version": "type mmft --version",
}
_SHORT = {"-h": "--help", "-m": "--multirun", "-r": "--run", "-c": "--cfg", "-i": "--info", "-cd": "--config-dir"}
SWITCHES = ("--help", "--multirun", "--run", "--resolve", "--hydra-help", "--allow-code")
"""The flags without a value; each sets the field of its name."""
CFG = ("job", "hydra", "all")
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


@dataclass
class Flags:
    """What was typed after the sub-command."""

    overrides: list[str] = field(default_factory=list)
    config_dirs: list[Path] = field(default_factory=list)
    cfg: str | None = None
    info: str | None = None
    help: bool = False
    multirun: bool = False
    run: bool = False
    resolve: bool = False
    hydra_help: bool = False
    allow_code: bool = False


def parse_flags(words: Sequence[str]) -> Flags:
    """Splits the arguments into flags and overrides.

    Raises:
        UserError: lists every wrong flag.
    """
    flags, errors = Flags(), []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            flags.overrides.append(word)
            continue
        name, given, value = word.partition("=")
        name = _SHORT.get(name, name)
        try:
            _flag(flags, name, value if given else None, rest)
        except ValueError as error:
            errors.append(str(error))
    errors += _conflicts(flags)
    if errors:
        raise UserError(errors)
    return flags


def _flag(flags: Flags, name: str, value: str | None, rest: list[str]) -> None:
    """Sets one flag, taking its value from `rest` if needed."""
    if name in _REFUSED:
        raise ValueError(f"{name} is not supported: {_REFUSED[name]}")
    if name in SWITCHES and value is None:
        setattr(flags, name[2:].replace("-", "_"), True)
    elif name == "--config-dir":
        flags.config_dirs.insert(0, Path(_value(name, value, rest)))
    elif name == "--cfg":
        flags.cfg = _one_of(name, _value(name, value, rest), CFG)
    elif name == "--info":
        follows = bool(rest) and rest[0] in INFO
        flags.info = _one_of(name, value or (rest.pop(0) if follows else "all"), INFO)
    else:
        known = [*SWITCHES, "--config-dir", "--cfg", "--info"]
        near = did_you_mean(name, known) or _as_a_key(name)
        raise ValueError(f"{name}: no such flag.{near} Flags: {listed(known)}")


def _as_a_key(name: str) -> str:
    """` Type KEY=VALUE` for a flag of another program, such as `--learning_rate`; empty if no key is alike."""
    from mmft.config.schema.root import TrainConfig
    from mmft.config.walk import key_names

    key = nearest(name.lstrip("-").replace("-", "_"), key_names(TrainConfig))
    return "" if key is None else f" Type {key}=VALUE, without dashes."


def _value(name: str, value: str | None, rest: list[str]) -> str:
    if value is None and (not rest or rest[0].startswith("-")):
        raise ValueError(f"{name} needs a value: {name} VALUE")
    return rest.pop(0) if value is None else value


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"{name} {value}: expected one of {listed(allowed)}.{did_you_mean(value, allowed)}")
    return value


def _resumes(flags: Flags) -> bool:
    from mmft.launch.ready import resumes  # composing takes longer than parsing flags

    return resumes(flags.overrides)


def _conflicts(flags: Flags) -> list[str]:
    chosen = {"--run": flags.run, "--multirun": flags.multirun, "--cfg": flags.cfg, "--info": flags.info}
    on = [name for name, given in chosen.items() if given]
    errors = [f"{' and '.join(on)}: use only one of them at a time"] if len(on) > 1 else []
    if flags.multirun and _resumes(flags):
        errors.append("-m does not go with resume=: resume one run of the sweep at a time. Type resume=SWEEP/0")
    if flags.resolve and flags.cfg is None:
        errors.append("--resolve needs --cfg. Type --cfg job --resolve")
    return errors
