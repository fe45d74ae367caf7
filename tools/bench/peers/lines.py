"""How many lines of code a script has."""

from __future__ import annotations

import ast
import tokenize
from pathlib import Path

_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def count(path: Path) -> int:
    """Lines with code: of Python without docstrings, of Python and shell without comments and empty lines."""
    if path.suffix != ".py":
        lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
        return sum(bool(line) and not line.startswith("#") for line in lines)
    found: set[int] = set()
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type not in _NO_CODE and token.type != tokenize.ENCODING:
                found.update(range(token.start[0], token.end[0] + 1))
    return len(found - _docstrings(path))


def _docstrings(path: Path) -> set[int]:
    found: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            first = node.body[0]
            found.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return found
