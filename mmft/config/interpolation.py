"""Interpolations, `${data.batch_size}` and `${oc.env:HOME}`: which are allowed, and what they give.

Allowed are references to one value elsewhere in the config and three resolvers; the rest of OmegaConf's
can decode, create and select at will and are refused before anything is resolved. The length that
references expand to is worked out beforehand, so that a config cannot blow up memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from mmft.config.validate import Problem
from mmft.config.walk import MISSING
from mmft.config.wording import did_you_mean, listed, show

ENV_NAMES = ("HOME", "USER", "HOSTNAME", "TMPDIR", "SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES")
LONGEST = 10_000  # characters that one value may expand to

ALLOWED = "Allowed are ${section.key} of one value, ${oc.env:NAME} and ${now:FORMAT}"


class Used(NamedTuple):
    """The interpolations of one text."""

    references: list[str]  # as written: `data.path`, `.path`
    env: list[str]
    errors: list[str]


def interpolations(text: str) -> Used:
    """What a text refers to, read with OmegaConf's own grammar; nothing is resolved."""
    used = Used([], [], [])
    if "${" not in text:
        return used
    from omegaconf.grammar_parser import parse

    if len(text) > LONGEST:
        used.errors.append(f"a text with interpolations may have {LONGEST} characters, not {len(text)}")
        return used
    try:
        _collect(parse(text), used)
    except (GrammarParseError, RecursionError) as error:
        first = str(error).splitlines()[0] if str(error) else "nested too deeply"
        used.errors.append(f"{show(text)} cannot be read: {first}")
    return used


def _collect(tree: Any, used: Used) -> None:
    """Walks a parse tree; the grammar's names are those of OmegaConf 2.3."""
    from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser as Grammar

    if isinstance(tree, Grammar.InterpolationNodeContext):
        _collect_reference(tree.getText(), used)
    elif isinstance(tree, Grammar.InterpolationResolverContext):
        _collect_resolver(tree.resolverName().getText(), tree.getText(), used)
    else:
        for child in tree.getChildren() if hasattr(tree, "getChildren") else ():
            _collect(child, used)


def _collect_reference(text: str, used: Used) -> None:
    inner = text[2:-1]
    if "${" in inner:
        used.errors.append(f"{show(text)}: a reference must be written out. {ALLOWED}")
    else:
        used.references.append(inner.replace("[", ".").replace("]", "").strip())


def _collect_resolver(name: str, text: str, used: Used) -> None:
    argument = text[2:-1].partition(":")[2]
    variable = argument.split(",")[0].strip()
    if "${" in argument or name not in ("oc.env", "now"):
        used.errors.append(f"{show(text)} is not allowed. {ALLOWED}")
    elif name == "oc.env":
        if variable not in ENV_NAMES and not variable.startswith("MMFT_"):
            used.errors.append(f"{show(text)}: allowed are the variables {listed(ENV_NAMES)} and MMFT_*")
        used.env.append(variable)


def texts_of(value: Any) -> Iterator[str]:
    """Every text in a plain value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from texts_of(key)
            yield from texts_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_of(inner)


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
    """Resolves every interpolation of a config, or says what is wrong with it."""
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
    return _Resolver(config, plain).run()


class _Resolver:
    def __init__(self, config: DictConfig, plain: dict[str, Any]) -> None:
        self.config = config
        self.leaves = dict(_leaves(plain, ""))
        self.result = Resolved(plain)
        self.sizes: dict[str, int] = {}
        self.env: set[str] = self.result.env_keys

    def run(self) -> Resolved:
        for key in [k for k, (_, _, v) in self.leaves.items() if isinstance(v, str) and "${" in v]:
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
        size = len(text) + sum(self._size(t, (*seen, key)) for t in targets)
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
        """What OmegaConf makes of a value that was found harmless."""
        node: Any = self.config
        for part in key.split("."):
            node = node._get_node(int(part) if OmegaConf.is_list(node) else _own_key(node, part))
        try:
            value = node._dereference_node()._value() if node._is_interpolation() else str(node._value())
        except (OmegaConfBaseException, RecursionError) as error:
            raise _Bad(f"cannot be resolved: {str(error).splitlines()[0]}") from error
        return MISSING if value is None and node._is_missing() else value


class _Bad(ValueError):
    """An interpolation that is not allowed or leads nowhere."""


def _own_key(node: DictConfig, part: str) -> Any:
    return next((k for k in node if str(k) == part), part)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, tuple[Any, Any, Any]]]:
    """Key -> (the dict or list that holds it, its name there, its value), for all values."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for name, inner in list(items):
        key = f"{path}.{name}" if path else str(name)
        if isinstance(inner, dict | list) and inner:
            yield from _leaves(inner, key)
        else:
            yield key, (value, name, inner)
