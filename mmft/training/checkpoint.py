"""Checkpoints as folders of safetensors and JSON, without pickle.

`FolderCheckpointIO` is the Lightning plugin. What Lightning dumps (loops, optimizer, callbacks, the module's state
dict) is a tree of plain values and tensors. Tensors go to `tensors.safetensors` under numbered names, the tree to
`state.json`, and the checksums of both to `checksums.json`.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmft.errors import UserError
from mmft.files import damage, is_sealed, replace_folder, seal, settled
from mmft.run_folder import STATE

log = logging.getLogger(__name__)
_TENSOR, _ITEMS = "__tensor__", "__items__"


class FolderCheckpointIO(CheckpointIO):
    """Saves and loads a checkpoint folder atomically."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes `checkpoint` as the folder `path`."""
        replace_folder(Path(path), lambda folder: write(folder, checkpoint))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads the folder `path`, with tensors on the CPU."""
        return read(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Required by Lightning; folders are replaced and never removed."""
        raise NotADirectoryError(f"{path}: checkpoints are replaced as whole folders, never removed")


def write(folder: Path, tree: dict[str, Any]) -> None:
    """Writes a tree of plain values and tensors into `folder`."""
    tensors: dict[str, Tensor] = {}
    plain = _encode(tree, tensors)
    save_tensors(_apart(tensors), folder / "tensors.safetensors")
    (folder / STATE).write_text(json.dumps(plain), encoding="utf-8")
    seal(folder)


def read(folder: Path, plain: bool = False) -> dict[str, Any]:
    """Reads what `write` wrote.

    Args:
        folder: the checkpoint's.
        plain: True skips the tensors (None takes their place), which is almost free.

    Raises:
        UserError: `folder` has no complete checkpoint, or one of its files was altered.
    """
    if settled(folder) is None:
        raise UserError(f"{folder}: no checkpoint found here.")
    if not plain:
        check_whole(folder)
    try:
        tensors: Mapping[str, Tensor | None] = (
            defaultdict(lambda: None) if plain else load_file(folder / "tensors.safetensors")
        )
        return dict(_decode(json.loads((folder / STATE).read_text(encoding="utf-8")), tensors))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be read as a checkpoint ({error}).") from error


def check_whole(folder: Path) -> None:
    """Verifies a sealed folder, and warns about one written by an earlier mmft, which cannot be.

    Raises:
        UserError: a file is missing, cut or altered.
    """
    if wrong := damage(folder):
        raise UserError(f"{wrong}: it is damaged and is not loaded.")
    if not is_sealed(folder):
        log.warning("%s has no checksums.json, as in earlier versions: whether it is damaged cannot be seen", folder)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes a safetensors file; an error names its size."""
    with system_errors(path, sum(tensor.nbytes for tensor in tensors.values())):
        save_file(tensors, path)


@contextmanager
def system_errors(path: Path, size: int | None = None) -> Iterator[None]:
    """Turns safetensors' own error for a file that cannot be written, of `size` bytes, into an `OSError`."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        why = os.strerror(int(number[1])) + ("" if size is None else f" for {size:,} bytes")
        raise OSError(int(number[1]), why, str(path)) from error


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gives each tensor its own storage, as safetensors requires; only shared ones are copied."""
    taken: set[int] = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        if storage in taken:
            tensors[name] = tensor.clone()
        taken.add(storage)
    return tensors


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = f"{len(tensors):06d}"
        tensors[name] = value.detach().cpu().contiguous()
        return {_TENSOR: name}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("__") for key in value):
            return {key: _encode(item, tensors) for key, item in value.items()}
        return {_ITEMS: [[key, _encode(item, tensors)] for key, item in value.items()]}  # JSON keys are text
    if isinstance(value, (list, tuple)):
        return [_encode(item, tensors) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"A checkpoint holds plain values and tensors, not {type(value).__name__}.")


def _decode(value: Any, tensors: Mapping[str, Tensor | None]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        if _ITEMS in value:
            return {key: _decode(item, tensors) for key, item in value[_ITEMS]}
        return {key: _decode(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    return value
