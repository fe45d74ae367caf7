"""Image paths as tables have them: understood where the meaning is clear; else the nearest file is named."""

from __future__ import annotations

import base64
import binascii
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urlsplit

_ODD = re.compile(r"^\s|\s$|\\|%[0-9A-Fa-f]{2}|^file:|^data:|^~|[^\x00-\x7f]|^[A-Za-z0-9+/\s]{100,}=*\s*$", re.ASCII)
"""Paths that may need more than joining them with the root; all others cost nothing."""
_DATA_URI = re.compile(r"data:[\w./+-]*(;[\w=.-]+)*?(;base64)?,", re.ASCII)
_SHOWN = 300  # characters of a path in a message
_PYTHON = re.compile(r"/(?:(\[)|(\{)|b(['\"])[\\/]x)\s*['\"]?")  # a list, dict or bytes, as Python prints them


def image_source(root: str, text: str) -> str | bytes:
    """The absolute path, or the encoded bytes, that a cell of the image column means.

    A path that exists as written is never changed. Otherwise surrounding blanks, backslashes, `file://`, `~`, `%20` and
    the other Unicode normal form are understood, also together; and base64 text and `data:` URIs, which hold the
    image itself.

    Args:
        root: absolute folder of relative paths.
        text: the cell.
    """
    path = os.path.join(root, text)  # noqa: PTH118 - ten times as fast as Path
    if not _ODD.search(text) or _is_file(path):
        return path
    held = _held(text)
    if held is not None:
        return held
    return next((found for found in _readings(root, text) if _is_file(found)), _plain(root, text))


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def _held(text: str) -> bytes | None:
    """The bytes that a `data:` URI or a long base64 text holds; None for anything else."""
    uri = _DATA_URI.match(text.strip())
    try:
        if uri is not None:
            rest = text.strip()[uri.end() :]
            return base64.b64decode(rest, validate=True) if uri[2] else unquote_to_bytes(rest)
        if len(text) >= 100 and "." not in text:
            return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        pass
    return None


def _plain(root: str, text: str) -> str:
    """The path without blanks, backslashes and `file://`, with `~` expanded."""
    text = text.strip().replace("\\", "/")
    if text.startswith("file:"):
        text = urlsplit(text).path
    return os.path.join(root, os.path.expanduser(text))  # noqa: PTH111, PTH118


def _readings(root: str, text: str) -> Iterator[str]:
    for path in (_plain(root, text), unquote(_plain(root, text))):
        yield path
        yield from (unicodedata.normalize(form, path) for form in ("NFC", "NFD"))


def why_missing(path: str) -> str:
    """Why there is no file at an absolute path, with the nearest file that there is."""
    python = _PYTHON.search(path)
    if python is not None:
        kind = "a list" if python[1] else "an object" if python[2] else "bytes"
        better = "give each row one path" if python[1] else "save the table as Parquet"
        return f"{kind} written as text, not a path; {better}"
    with suppress(OSError, ValueError):
        target = str(Path(path).readlink())
        annexed = "; type git annex get" if "annex/objects" in target else ""
        return f"no such file: {path} is a link to {target}, which does not exist{annexed}"
    try:
        near = next(_near(Path(path)), None)
    except (OSError, ValueError):
        near = None
    shown = path if len(path) <= _SHOWN else f"{path[:_SHOWN]}..."
    return f"no such file: {shown}" + ("" if near is None else f"; {near}")


def _near(path: Path) -> Iterator[str]:
    """Why the path may be missing, the likeliest first."""
    above = next(parent for parent in path.parents if parent.exists())
    if not above.is_dir():
        yield f"{above} is a file, not a folder" + ("; unpack it" if above.suffix in (".zip", ".tar", ".gz") else "")
        return
    rest = path.relative_to(above).parts
    if len(rest) == 1:
        for found in _alike(above, path.name):
            yield f"there is {found}"
    for separator in (";", ",", "|"):
        first, *more = "/".join(rest).split(separator)
        if more and any((above / part.strip()).is_file() for part in (first, *more)):
            yield "several paths in one cell; give each row one path"
    pieces = [piece for part in rest for piece in part.split("\\")]
    for start in range(1, len(pieces)):
        if (found := above.joinpath(*pieces[start:])).is_file():
            yield f"there is {found}: set data.root, or shorten the paths"


def _alike(folder: Path, name: str) -> list[Path]:
    """Files of the folder that differ from `name` in case or ending only."""
    wanted = _folded(name)
    names = _names_in(folder)
    found = [names.get(key) for key in (wanted, f"{wanted.rpartition('.')[0] or wanted}.", f"{wanted}.")]
    return [folder / one for one in found if one is not None]


@lru_cache(maxsize=8)
def _names_in(folder: Path) -> dict[str, str]:
    """The files of a folder by folded name, and by name without ending and with a dot."""
    names: dict[str, str] = {}
    for entry in os.scandir(folder):
        key = _folded(entry.name)
        names[key] = entry.name
        names.setdefault(f"{key.rpartition('.')[0]}.", entry.name)
    return names


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
