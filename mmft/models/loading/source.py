"""The source of a pretrained encoder: a local folder or a hub name, and the library it belongs to.

Every encoder is built from a local folder; a hub name is first downloaded, or found in the hub's cache. The folder's
`config.json` or `open_clip_config.json` identifies the library, and a saved run identifies a frozen encoder by the
SHA-256 of its weight files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from mmft.config.plugins import allowed
from mmft.errors import UserError
from mmft.files import PREFIX, SAMPLES, located

Library = Literal["timm", "transformers", "open_clip", "own"]
_CONFIGS = {"open_clip": "open_clip_config.json"}
_SMALL_FILES = ("*.json", "*.txt", "*.model", "*.spm", "*.jinja")


@dataclass(frozen=True)
class Source:
    """A resolved encoder: the name as typed, its folder, and its library.

    A custom encoder without a folder is `Source(name)`; a finished model then stores all of its weights.
    """

    name: str
    folder: Path = Path()
    library: Library = "own"

    @property
    def config(self) -> dict[str, Any]:
        """The folder's `config.json`, or open_clip's; empty without a folder."""
        name = _CONFIGS.get(self.library, "config.json")
        return {} if self.library == "own" else read_json(self.folder / name)

    def content_hash(self) -> str:
        """SHA-256 over the names and bytes of the weight files, sorted by name."""
        return content_hash(self.folder)


def resolve(name: str, key: str) -> Source:
    """Resolves an encoder's name.

    Args:
        name: a folder, or a hub name (`timm/...`, `hf/owner/name`, `owner/name`, or timm's own short name).
        key: the config key of the name, for messages.

    Raises:
        UserError: the folder holds no encoder, or the hub does not have it or cannot be reached.
    """
    path = located(name)
    if path.is_dir():
        return Source(name, path.resolve(), _library_of(path, key))
    if name.startswith((".", "/", "~", PREFIX)) or path.exists():
        raise UserError(f"{key}: {name} is not a folder. Give a folder with config.json and weights, or a hub name.")
    folder = _download(name, key)
    return Source(name, folder, _library_of(folder, key))


def check_alone(source: Source, key: str) -> None:
    """Checks that a folder can be used for one encoder.

    Raises:
        UserError: it holds a pair in open_clip's format.
    """
    if source.library == "open_clip":
        name = source.name
        raise UserError(
            f"{key}.name={name} is a pair in open_clip's format. Type model.pair={name} to use both encoders"
        )


def content_hash(folder: Path) -> str:
    """SHA-256 over the names and bytes of the weight files in `folder`, sorted by name."""
    digest = hashlib.sha256()
    for file in weight_files(folder):
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The weight files: safetensors, or torch's if there are none."""
    for pattern in ("*.safetensors", "*.bin", "*.pth"):
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def small_files(folder: Path) -> list[Path]:
    """Configs and tokenizer files in `folder`, and its Python files if the command may run them."""
    return sorted(file for pattern in _small_patterns() for file in folder.glob(pattern))


def _small_patterns() -> list[str]:
    return [*_SMALL_FILES, *(["*.py"] if allowed() else [])]


def find_by_hash(wanted: str, folders: Iterable[Path]) -> Path | None:
    """The first of `folders` and their direct subfolders whose weights hash to `wanted`; None if there is no match."""
    for folder in folders:
        if not folder.is_dir():
            continue
        for candidate in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())):
            if weight_files(candidate) and content_hash(candidate) == wanted:
                return candidate.resolve()
    return None


def encoder_folders() -> list[Path]:
    """The folders in `MMFT_ENCODERS`, separated as in PATH, and mmft's own."""
    return [*(located(p) for p in os.environ.get("MMFT_ENCODERS", "").split(os.pathsep) if p), SAMPLES]


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`; empty if there is no such file, or it holds no JSON object."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _library_of(folder: Path, key: str) -> Library:
    config = read_json(folder / "config.json")
    if (folder / _CONFIGS["open_clip"]).is_file() and not _has_transformers_weights(folder, config):
        return "open_clip"
    if not config:
        raise UserError(
            f"{key}: {folder} has no config.json with a JSON object, so it is not an encoder folder.{_inner(folder)}"
        )
    if "architecture" in config:
        return "timm"
    if "model_type" in config:
        return "transformers"
    raise UserError(f"{key}: {folder}/config.json has neither timm's `architecture` nor transformers' `model_type`.")


def _has_transformers_weights(folder: Path, config: dict[str, Any]) -> bool:
    """Whether a folder in open_clip's format holds the same pair in transformers' format, which is then preferred."""
    named = any(any(folder.glob(pattern)) for pattern in ("model*.safetensors", "pytorch_model*.bin"))
    return named and "model_type" in config


def _inner(folder: Path) -> str:
    """Hint at the folder in which older sentence-transformers models keep their transformer."""
    inner = folder / "0_Transformer"
    return f" Its transformer lies in {inner}" if (inner / "config.json").is_file() else ""


def hub_repository(name: str, key: str) -> str:
    """The hub repository of a name: `timm/x` and timm's short names, `hf/owner/x`, `owner/x`.

    Raises:
        UserError: it can only be one of timm's names, and timm has no such architecture.
    """
    if name.startswith("hf/"):
        return name.removeprefix("hf/")
    short = name.removeprefix("timm/")
    if name.startswith("timm/") or "/" not in name:
        import timm

        if timm.is_model(short.split(".")[0]):
            tagged = short if "." in short else timm.get_pretrained_cfg(short)  # the architecture's default weights
            tag = tagged if isinstance(tagged, str) else f"{short}.{tagged.tag}" if tagged and tagged.tag else short
            return f"timm/{tag}"
        if key != "model.pair" and (name.startswith("timm/") or key.startswith("model.image_encoder")):
            near = get_close_matches(short.split(".")[0], timm.list_models(), n=3, cutoff=0.5)
            meant = f" Did you mean {' or '.join(near)}?" if near else ""
            raise UserError(f"{key}: {name} is neither a folder here nor an architecture of timm.{meant}")
    return name


def _download(name: str, key: str) -> Path:
    from huggingface_hub import snapshot_download

    repository = hub_repository(name, key)
    small = _small_patterns()
    try:
        folder = Path(snapshot_download(repository, allow_patterns=[*small, "*.safetensors"]))
        if not weight_files(folder):
            folder = Path(snapshot_download(repository, allow_patterns=[*small, "*.bin"]))
    except Exception as error:  # noqa: BLE001 - the hub's errors have no common base: network, name, permission, cache
        raise UserError(
            f"{key}: {name} is not a folder here, and the hub did not provide {repository} "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}). "
            f"Without a network, download it elsewhere and give its folder: {key}=FOLDER"
        ) from None
    return folder
