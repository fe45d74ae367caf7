r"""Interpolations: `${data.batch_size}` for one value elsewhere in the config, `${oc.env:HOME}`, `${now:%Y-%m-%d}`.

These three are a small part of what OmegaConf's resolvers can do, and they are resolved here: nothing else of a config
reaches OmegaConf's grammar, whose resolvers decode, create and select at will. The length that references expand to is
checked beforehand, so that a config cannot blow up memory. As with OmegaConf, `\${` is no interpolation.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from mmft.config.validate import Problem
from mmft.config.wording import did_you_mean, listed, show

ENV_NAMES = ("HOME", "USER", "HOSTNAME", "TMPDIR", "SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES")
LONGEST = 10_000  # characters that one value may expand to

ALLOWED = "Allowed are ${section.key} of one value, ${oc.env:NAME} and ${now:FORMAT}"
_FOUND = re.compile(r"(\\*)\$\{([^{}]*)(\}?)")  # backslashes in front, what is inside, whether it is closed there
_REFERENCE = re.compile(r"\.*\w+(\.\w+|\[\w+\])*")


class Used(NamedTuple):
    """The interpolations of one text."""

    references: list[str]  # as keys: `data.path`, `.path`
    env: list[str]
    errors: list[str]


def interpolations(text: str) -> Used:
    """What a text refers to; nothing is resolved."""
    used = Used([], [], [])
    if "${" not in text:
        return used
    if len(text) > LONGEST:
        used.errors.append(f"a text with interpolations may have {LONGEST} characters, not {len(text)}")
        return used
    for backslashes, inner, closed in _FOUND.findall(text):
        if len(backslashes) % 2 == 0:
            _collect(inner, bool(closed), text, used)
    return used


def _collect(inner: str, closed: bool, text: str, used: Used) -> None:
    name, colon, argument = inner.partition(":")
    if not closed:
        used.errors.append(f"{show(text)}: a reference must be written out, and closed. {ALLOWED}")
    elif not colon and _REFERENCE.fullmatch(inner.strip()):
        used.references.append(inner.strip().replace("[", ".").replace("]", ""))
    elif name == "oc.env":
        variable = argument.split(",")[0].strip()
        if variable not in ENV_NAMES and not variable.startswith("MMFT_"):
            used.errors.append(f"{show(text)}: allowed variables are {listed(ENV_NAMES)} and MMFT_*")
        used.env.append(variable)
    elif name != "now":
        used.errors.append(f"{show('${' + inner + '}')} is not allowed. {ALLOWED}")


def escaped(value: Any) -> Any:
    """A plain value in which `${` is no interpolation: escaped, and backslashes in front of it doubled."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, dict):
        return {key: escaped(inner) for key, inner in value.items()}
    return [escaped(inner) for inner in value] if isinstance(value, list) else value


@dataclass
class Resolved:
    """A plain mapping without interpolations.

    Attributes:
        values: the mapping; None where an interpolation is wrong.
        problems: what is wrong.
        env_keys: keys whose value depends on an environment variable; never written to disk.
    """

    values: dict[str, Any]
    problems: list[Problem] = field(default_factory=list)
    env_keys: set[str] = field(default_factory=set)


def resolve(config: DictConfig) -> Resolved:
    """Resolves every interpolation of a config, or reports what is wrong with it."""
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
    return _Resolver(plain).run()


class _Resolver:
    def __init__(self, plain: dict[str, Any]) -> None:
        self.leaves = dict(_leaves(plain, ""))
        self.texts = [key for key, (_, _, value) in self.leaves.items() if isinstance(value, str) and "${" in value]
        self.result = Resolved(plain)
        self.sizes: dict[str, int] = {}
        self.env: set[str] = self.result.env_keys

    def run(self) -> Resolved:
        for key in self.texts:
            holder, name, _ = self.leaves[key]
            try:
                self._size(key, ())
                holder[name] = self._value(key)
            except _Bad as bad:
                holder[name] = None
                self.result.problems.append(Problem(key, str(bad)))
        return self.result

    def _size(self, key: str, seen: tuple[str, ...]) -> int:
        """Characters that a key's value expands to, at most; also finds cycles, and what depends on `oc.env`."""
        if key in seen:
            raise _Bad(f"refers to itself: {' -> '.join((*seen, key))}")
        if key in self.sizes:
            return self.sizes[key]
        text = str(self.leaves[key][2])
        used = interpolations(text)
        if used.errors:
            raise _Bad("; ".join(used.errors))
        targets = [self._target(key, reference) for reference in used.references]
        size = len(text) + sum(self._size(target, (*seen, key)) for target in targets)
        if size > LONGEST:
            raise _Bad(f"expands to more than {LONGEST} characters")
        if used.env or self.env.intersection(targets):
            self.env.add(key)
        self.sizes[key] = size
        return size

    def _target(self, key: str, reference: str) -> str:
        """The absolute key of a reference, which must be a single value."""
        dots = len(reference) - len(reference.lstrip("."))
        base = key.split(".")[:-dots] if dots else []
        target = ".".join([*base, reference.lstrip(".")])
        if target in self.leaves and not isinstance(self.leaves[target][2], dict | list):
            return target
        if target in self.leaves or any(k.startswith(f"{target}.") for k in self.leaves):
            raise _Bad(f"${{{reference}}} is a whole section or list; refer to one of its values")
        raise _Bad(f"${{{reference}}}: there is no key {target}.{did_you_mean(target, self.leaves)}")

    def _value(self, key: str) -> Any:
        """A value that was found harmless: of any type where it is one interpolation and nothing else, else a text."""
        value = self.leaves[key][2]
        if key not in self.texts:
            return value
        whole = _FOUND.fullmatch(value)
        if whole is not None and not whole[1]:
            return self._one(key, whole[2])

        def put(found: re.Match[str]) -> str:
            kept = found[1][: len(found[1]) // 2]
            if len(found[1]) % 2:
                return f"{kept}${{{found[2]}{found[3]}"
            return f"{kept}{self._one(key, found[2])}"

        return _FOUND.sub(put, value)

    def _one(self, key: str, inner: str) -> Any:
        name, colon, argument = inner.partition(":")
        if not colon:
            return self._value(self._target(key, inner.strip().replace("[", ".").replace("]", "")))
        if name == "now":
            return datetime.now().strftime(argument)
        variable, comma, default = argument.partition(",")
        found = os.environ.get(variable.strip(), default.strip() if comma else None)
        if found is None:
            raise _Bad(f"cannot be resolved: there is no environment variable {variable.strip()}")
        return found


class _Bad(ValueError):
    """An interpolation that is not allowed or leads nowhere."""


def _leaves(value: Any, path: str) -> Iterator[tuple[str, tuple[Any, Any, Any]]]:
    """Key -> (the dict or list that holds it, its name there, its value), for all values."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for name, inner in list(items):
        key = f"{path}.{name}" if path else str(name)
        if isinstance(inner, dict | list) and inner:
            yield from _leaves(inner, key)
        else:
            yield key, (value, name, inner)
