"""Makes the paths of a config absolute for use; the config itself keeps them as typed."""

from __future__ import annotations

import copy
import re
from glob import glob
from pathlib import Path
from typing import Any

from mmft.files import located

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm", ".qoi", ".ico")
"""Endings of a typed query that is the path of an image and no text."""
TABLES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather")
"""Extensions of table files, as `mmft.data.sources.formats` reads them."""
_KEYS = ("path", "train", "val", "test")
_PATTERN = re.compile(r"[*?\[]")


def tables_of(data: Any) -> dict[str, str | list[str]]:
    """The tables that a `data` section names, by key: `data.train`, `data.test`, or `data.test.photo` of several."""
    given = {f"data.{key}": getattr(data, key, None) for key in _KEYS}
    found: dict[str, str | list[str]] = {}
    for key, value in given.items():
        if isinstance(value, dict):
            found |= {f"{key}.{name}": files for name, files in value.items()}
        elif value is not None:
            found[key] = value
    return found


def table_files(given: str | list[str]) -> list[Path]:
    """The files that a key such as `data.path` names: files, patterns, and folders of files, in order.

    A pattern or a folder without such files, and a file that does not exist, are returned as they are.
    """
    return [file for one in ([given] if isinstance(given, str) else given) for file in _files(located(one))]


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        inside = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in TABLES and file.is_file()]
        data = [file for file in inside if file.suffix.lower() not in (".json", ".txt")]
        return data or inside or [path]
    is_pattern = _PATTERN.search(str(path)) and not path.exists()
    found = sorted(glob(str(path), recursive=True)) if is_pattern else []  # noqa: PTH207 - Path's refuses absolute ones
    return [Path(file) for file in found] or [path]


def rebase(config: Any, base: Path) -> Any:
    """A copy of a `TrainConfig` with relative paths resolved against `base`.

    An encoder's name is a path if that folder exists; otherwise it is a hub name and stays unchanged.
    """
    absolute = copy.deepcopy(config)
    for name in (*_KEYS, "root"):
        setattr(absolute.data, name, absolute_paths(getattr(absolute.data, name), base))
    for encoder in (absolute.model.image_encoder, absolute.model.text_encoder):
        if (folder := located(encoder.name, base)).is_dir():
            encoder.name = str(folder)
    for key in ("pair", "whole"):
        name = getattr(absolute.model, key)
        if name is not None and (folder := located(name, base)).is_dir():
            setattr(absolute.model, key, str(folder))
    absolute.paths.runs = str(located(absolute.paths.runs, base))
    absolute.paths.cache = absolute_paths(absolute.paths.cache, base)
    if absolute.init is not None and absolute.init != "last":
        absolute.init = str(located(absolute.init, base))
    return absolute


def absolute_paths(given: Any, base: Path) -> Any:
    """A path, or a list or mapping of paths, resolved against `base`; null stays null."""
    if isinstance(given, dict):
        return {name: absolute_paths(one, base) for name, one in given.items()}
    if isinstance(given, list):
        return [absolute_paths(one, base) for one in given]
    return None if given is None else str(located(given, base))
