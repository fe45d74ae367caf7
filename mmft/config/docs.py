"""Reads the strings below the schemas' fields from the source; they document every key."""

from __future__ import annotations

import ast
import inspect
import sys
from dataclasses import is_dataclass
from functools import cache


@cache
def _module_docs(module: str) -> dict[str, dict[str, str]]:
    """Maps class to field to the string below the field."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except OSError:  # a plugin without source code
        return {}
    return {node.name: _class_docs(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _class_docs(node: ast.ClassDef) -> dict[str, str]:
    docs = {}
    for target, text in zip(node.body, node.body[1:], strict=False):
        if not isinstance(target, ast.AnnAssign) or not isinstance(target.target, ast.Name):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            docs[target.target.id] = " ".join(str(text.value.value).split())
    return docs


def doc(owner: type, name: str) -> str:
    """The documentation of one field, which a base class may define."""
    for cls in getattr(owner, "documented_by", owner).__mro__:
        found = _module_docs(cls.__module__).get(cls.__name__, {}) if is_dataclass(cls) else {}
        if name in found:
            return found[name]
    return ""
