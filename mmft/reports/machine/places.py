"""Folders and accounts: the hub's cache, `MMFT_ENCODERS`, Weights & Biases, room for runs. Nothing asks a network."""

from __future__ import annotations

import netrc
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from mmft.reports.machine.finding import Finding, size
from mmft.shipped import located

_LITTLE = 2**30  # bytes; a run's two checkpoints and its model are three times what is trained, and its moments


def hub() -> Iterator[Finding]:
    """Where encoders of the hub are kept, and whether they may be downloaded."""
    try:
        from huggingface_hub import constants
    except Exception:  # noqa: BLE001 - told elsewhere
        return
    cache = Path(constants.HF_HUB_CACHE)
    models = len(list(cache.glob("models--*")))
    state = "offline: nothing is downloaded" if constants.HF_HUB_OFFLINE else "online"
    yield Finding("hub cache", f"{cache}  {models} models, {state}", unwritable(cache, "HF_HOME"))
    weights = Path(os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch")
    yield Finding("timm cache", f"{cache} for timm/ names, {weights.expanduser() / 'hub'} for addresses")


def unwritable(folder: Path, variable: str) -> str | None:
    """What is wrong with a folder that nothing can be written to; None: nothing."""
    if os.access(existing(folder), os.W_OK):
        return None
    return f"nothing can be written to {folder}. Type export {variable}=FOLDER, a folder of yours"


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.exists())


def encoder_folders(given: str) -> Finding:
    """The folders in which encoders are looked for by name.

    Args:
        given: `MMFT_ENCODERS`, separated like PATH.
    """
    folders = [folder for folder in given.split(os.pathsep) if folder]
    gone = [folder for folder in folders if not located(folder).is_dir()]
    encoders = [config for folder in folders for config in located(folder).glob("*/config.json")]
    wrong = f"there is no folder {', '.join(gone)}. Correct the variable; folders are separated by '{os.pathsep}'"
    value = f"{given}  {len(encoders)} encoders" if folders else "not set"
    return Finding("MMFT_ENCODERS", value, wrong if gone else None)


def wandb_login(environment: Mapping[str, str], home: Path) -> Finding:
    """Whether `logger=wandb` would find a key. The key itself is neither kept nor shown.

    Args:
        environment: the process's.
        home: the home folder.
    """
    mode = environment.get("WANDB_MODE", "")
    if mode in ("offline", "disabled"):
        return Finding("wandb login", f"not needed (WANDB_MODE={mode})")
    if environment.get("WANDB_API_KEY"):
        return Finding("wandb login", "key in WANDB_API_KEY")
    try:
        import wandb

        host = urlsplit(environment.get("WANDB_BASE_URL") or wandb.Settings().base_url).netloc
    except Exception:  # noqa: BLE001 - told elsewhere
        return Finding("wandb login", "unknown: wandb does not import")
    file = Path(environment.get("NETRC") or home / ".netrc")
    try:
        known = file.is_file() and host in netrc.netrc(file).hosts
    except (netrc.NetrcParseError, OSError) as error:
        return Finding("wandb login", "unknown", f"{file} cannot be read ({error}). Type wandb login")
    return Finding("wandb login", f"key in {file}" if known else "none (for logger=wandb, type wandb login)")


def disk(runs: str) -> Finding:
    """Room for run folders.

    Args:
        runs: `paths.runs`.
    """
    folder = located(runs)
    above = existing(folder)
    free = shutil.disk_usage(above).free
    value = f"{folder}  {size(free)} free"
    if not above.is_dir():
        return Finding("paths.runs", value, f"{above} is no folder. Type paths.runs=FOLDER", fatal=True)
    if not os.access(above, os.W_OK | os.X_OK):
        return Finding("paths.runs", value, f"{above} cannot be written to. Type paths.runs=FOLDER", fatal=True)
    little = f"only {size(free)} are free. Remove old checkpoints, or type paths.runs=FOLDER on another disk"
    return Finding("paths.runs", value, little if free < _LITTLE else None)
