"""Inspects a user's YAML file before Hydra loads it.

Refuses anchors and aliases (a few lines of them can expand to gigabytes), tags, settings of Hydra itself (a launcher, a
search path or a callback would run code), and interpolations that mmft does not allow. Every message gives the file and
the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mmft.config.interpolation import interpolations
from mmft.config.walk import DEEPEST, OPTIONAL_GROUPS

LARGEST = 1_000_000  # bytes; a typical config has a few thousand
_HYDRA = re.compile(r"(^|[/.@: ])hydra($|[/.@: ])")
_HEADER = re.compile(r"^\s*#\s*@package\s+(\S+)")


def inspect(path: Path, name: str) -> list[str]:
    """All reasons why the file `path` may not be loaded; empty if it may.

    Args:
        path: the file.
        name: its Hydra name (`experiment/mine`).
    """
    top = name.partition("/")[0]
    if top in ("hydra", "schema"):
        return [f"{path}: the folder name {top} in --config-dir is reserved by mmft; move the file"]
    try:
        if path.stat().st_size > LARGEST:
            return [f"{path}: a config may have at most {LARGEST} bytes"]
        text = path.read_text(encoding="utf-8")
        if refused := list(_refused_tokens(text, path)):
            return refused
        return list(_refused_nodes(yaml.compose(text, Loader=yaml.SafeLoader), text, path))
    except (OSError, UnicodeDecodeError) as error:
        return [f"{path}: cannot be read: {error}"]
    except yaml.YAMLError as error:
        return [_syntax_error(error, path)]
    except RecursionError:
        return [f"{path}: nested too deeply"]


def _syntax_error(error: yaml.YAMLError, path: Path) -> str:
    mark = getattr(error, "problem_mark", None)
    line = "" if mark is None else f":{mark.line + 1}"
    return f"{path}{line}: is not valid YAML: {getattr(error, 'problem', None) or error}"


def _refused_tokens(text: str, path: Path) -> Iterator[str]:
    words: dict[type, str] = {
        yaml.AnchorToken: "an anchor (&name)",
        yaml.AliasToken: "an alias (*name)",
        yaml.TagToken: "a tag (!name)",
        yaml.DirectiveToken: "a directive (%NAME)",
    }
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        if type(token) in words:
            what = words[type(token)]
            yield f"{path}:{token.start_mark.line + 1}: {what} is not allowed. Write the value out, or use ${{key}}"


def _refused_nodes(root: Any, text: str, path: Path) -> Iterator[str]:
    if root is None:
        return
    if not isinstance(root, yaml.MappingNode):
        yield f"{path}:{root.start_mark.line + 1}: must be a mapping (key: value)"
        return
    headers = [found[1] for line in text.splitlines() if (found := _HEADER.match(line))]
    for package in headers:
        if _HYDRA.search(package):
            yield f"{path}: @package {package} is not allowed: Hydra's settings are managed by mmft"
    if path.parent.name in OPTIONAL_GROUPS and "_global_" not in headers:
        yield f"{path}:1: the package header is missing. Add this as the first line: # @package _global_"
    for key, value in root.value:
        if key.value == "hydra":
            yield f"{path}:{_line(key)}: hydra: is not allowed: Hydra's settings are managed by mmft"
        elif key.value == "defaults":
            yield from _refused_defaults(value, path)
    yield from _refused_values(root, path)


def _refused_defaults(node: Any, path: Path) -> Iterator[str]:
    """Refused entries of a defaults list; an entry is a string, or a mapping of one group to an option or a list."""
    if not isinstance(node, yaml.SequenceNode):
        yield f"{path}:{_line(node)}: defaults must be a list"
        return
    for entry in node.value:
        pairs = entry.value if isinstance(entry, yaml.MappingNode) else [(entry, None)]
        if isinstance(entry, yaml.MappingNode) and len(pairs) != 1:
            yield f"{path}:{_line(entry)}: an entry of defaults must have one group, not {len(pairs)}"
        for key, _ in pairs:
            if _HYDRA.search(str(key.value)):
                yield f"{path}:{_line(key)}: {key.value} is not allowed: Hydra's settings are managed by mmft"


def _refused_values(node: Any, path: Path, depth: int = 0) -> Iterator[str]:
    if depth > DEEPEST:
        raise RecursionError
    if isinstance(node, yaml.MappingNode):
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key, value in node.value:
            if names.count(key.value) > 1:
                yield f"{path}:{_line(key)}: {key.value} occurs {names.count(key.value)} times"
            if not isinstance(key, yaml.ScalarNode):
                yield f"{path}:{_line(key)}: a key must be a single value"
                continue
            yield from _refused_values(key, path, depth + 1)
            yield from _refused_values(value, path, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _refused_values(value, path, depth + 1)
    elif isinstance(node, yaml.ScalarNode):
        for error in interpolations(node.value).errors:
            yield f"{path}:{_line(node)}: {error}"


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1
