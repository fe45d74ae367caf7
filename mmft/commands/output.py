"""What commands print on stdout: paths in one form, and tables that are read by programs."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TextIO


def print_path(path: str | Path) -> None:
    """Prints a path, absolute, so that it is of use in any folder."""
    print(Path(path).absolute(), flush=True)


def utf8_stdout() -> TextIO:
    """Stdout for a table: UTF-8 as in files, whatever the terminal's encoding, and line ends as written."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", newline="")
    return sys.stdout
