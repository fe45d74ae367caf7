"""Interpolations such as `${data.batch_size}` and `${oc.env:HOME}`: which are allowed, and how they are resolved.

Allowed are references to a single value elsewhere in the config and two resolvers. OmegaConf's other resolvers can
decode, create and select arbitrary values, and are refused before anything is resolved. The expanded length of
references is computed first, so that a config cannot exhaust memory.
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
LONGEST = 10_000  # characters to which one value may expand

ALLOWED = "Allowed are ${section.key} for a single value, ${oc.env:NAME} and ${now:FORMAT}"


class Used(NamedTuple):
    """The interpolations of one text."""

    references: list[str]  # as written: `data.path`, `.path`
    env: list[str]
    errors: list[str]


def interpolations(text: str) -> Used:
    """The interpolations in a text, parsed with OmegaConf's grammar; nothing is resolved."""
    used = Used([], [], [])
    if "${" not in text:
        return used
    from omegaconf.grammar_parser import parse

    if len(text) > LONGEST:
        used.errors.append(f"a text with interpolations may have at most {LONGEST} characters, not {len(text)}")
        return used
    try:
        _collect(parse(text), used)
    except (GrammarParseError, RecursionError) as error:
        first = str(error).splitlines()[0] if str(error) else "nested too deeply"
        used.errors.append(f"{show(text)} cannot be parsed: {first}")
    return used


def _collect(tree: Any, used: Used) -> None:
    """Walks a parse tree; the class names are those of OmegaConf 2.3."""
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
            used.errors.append(f"{show(text)}: allowed variables are {listed(ENV_NAMES)} and MMFT_*")
        used.env.append(variable)


def texts_of(value: Any) -> Iterator[str]:
    """Every string in a plain value, including keys."""
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
    """Escapes `${` in a plain value and doubles the backslashes before it, so that it is not an interpolation."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, dict):
        return {key: escaped(inner) for key, inner in value.items()}
    return [escaped(inner) for inner in value] if isinstance(value, list) else value


@dataclass
class Resolved:
    """A plain mapping without interpolations.

    Attributes:
        values: the mapping, with None for invalid interpolations.
        problems: the invalid interpolations.
        env_keys: keys whose value depends on an environment variable; their values are never written to disk.
    """

    values: dict[str, Any]
    problems: list[Problem] = field(default_factory=list)
    env_keys: set[str] = field(default_factory=set)


def resolve(config: DictConfig) -> Resolved:
    """Resolves every interpolation of a config, or reports what is wrong with it."""
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
        """Upper bound on a value's expanded length; also finds cycles, and keys that depend on `oc.env`."""
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
        """The absolute key of a reference, which must point to a single value."""
        dots = len(reference) - len(reference.lstrip("."))
        base = key.split(".")[:-dots] if dots else []
        target = ".".join([*base, reference.lstrip(".")])
        if target in self.leaves and not isinstance(self.leaves[target][2], dict | list):
            return target
        if target in self.leaves or any(k.startswith(f"{target}.") for k in self.leaves):
            raise _Bad(f"${{{reference}}} is a whole section or list. Refer to one of its values")
        raise _Bad(f"${{{reference}}}: there is no key {target}.{did_you_mean(target, self.leaves)}")

    def _value(self, key: str) -> Any:
        """Resolves a value that was found to be safe."""
        node: Any = self.config
        for part in key.split("."):
            node = node._get_node(int(part) if OmegaConf.is_list(node) else _own_key(node, part))
        try:
            value = node._dereference_node()._value() if node._is_interpolation() else str(node._value())
        except (OmegaConfBaseException, RecursionError) as error:
            raise _Bad(f"cannot be resolved: {str(error).splitlines()[0]}") from error
        return MISSING if value is None and node._is_missing() else value


class _Bad(ValueError):
    """An interpolation that is not allowed or cannot be resolved."""


def _own_key(node: DictConfig, part: str) -> Any:
    return next((k for k in node if str(k) == part), part)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, tuple[Any, Any, Any]]]:
    """Maps each key to the dict or list that holds it, its name there, and its value."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for name, inner in list(items):
        key = f"{path}.{name}" if path else str(name)
        if isinstance(inner, dict | list) and inner:
            yield from _leaves(inner, key)
        else:
            yield key, (value, name, inner)
