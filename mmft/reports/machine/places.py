"""Checks folders and accounts: the hub cache, `MMFT_ENCODERS`, Weights & Biases, disk space. Uses no network."""

from __future__ import annotations

import netrc
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from mmft.errors import existing, free_bytes
from mmft.files import located
from mmft.reports.machine.diagnosis import Diagnosis, size

_LITTLE = 2**30  # bytes; a run stores the trained weights three times, and the optimizer's moments


def hub() -> Iterator[Diagnosis]:
    """Where hub encoders are cached, and whether downloads are allowed."""
    try:
        from huggingface_hub import constants
    except Exception:  # noqa: BLE001 - `packages` reports it
        return
    cache = Path(constants.HF_HUB_CACHE)
    models = len(list(cache.glob("models--*")))
    state = "offline: nothing is downloaded" if constants.HF_HUB_OFFLINE else "online"
    yield Diagnosis("hub cache", f"{cache}  {models} models, {state}", unwritable(cache, "HF_HOME"))
    weights = Path(os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch")
    yield Diagnosis("timm cache", f"{cache} for timm/ names, {weights.expanduser() / 'hub'} for addresses")


def unwritable(folder: Path, variable: str) -> str | None:
    """What is wrong with a folder that is not writable; None if it is."""
    if os.access(existing(folder), os.W_OK):
        return None
    return f"{folder} is not writable. Type export {variable}=FOLDER, with a folder of your own"


def encoder_folders(given: str) -> Diagnosis:
    """The folders that are searched for encoders by name.

    Args:
        given: `MMFT_ENCODERS`, separated like PATH.
    """
    folders = [folder for folder in given.split(os.pathsep) if folder]
    gone = [folder for folder in folders if not located(folder).is_dir()]
    encoders = [config for folder in folders for config in located(folder).glob("*/config.json")]
    wrong = f"no such folder: {', '.join(gone)}. Correct the variable; separate folders by '{os.pathsep}'"
    value = f"{given}  {len(encoders)} encoders" if folders else "not set"
    return Diagnosis("MMFT_ENCODERS", value, wrong if gone else None)


def wandb_login(environment: Mapping[str, str], home: Path) -> Diagnosis:
    """Whether `logger=wandb` would find a key. The key itself is neither stored nor shown.

    Args:
        environment: the process's.
        home: the home folder.
    """
    mode = environment.get("WANDB_MODE", "")
    if mode in ("offline", "disabled"):
        return Diagnosis("wandb login", f"not needed (WANDB_MODE={mode})")
    if environment.get("WANDB_API_KEY"):
        return Diagnosis("wandb login", "key in WANDB_API_KEY")
    try:
        import wandb

        host = urlsplit(environment.get("WANDB_BASE_URL") or wandb.Settings().base_url).netloc
    except Exception:  # noqa: BLE001 - `packages` reports it
        return Diagnosis("wandb login", "unknown: wandb does not import")
    file = Path(environment.get("NETRC") or home / ".netrc")
    try:
        known = file.is_file() and host in netrc.netrc(file).hosts
    except (netrc.NetrcParseError, OSError) as error:
        return Diagnosis("wandb login", "unknown", f"{file} cannot be read ({error}). Type wandb login")
    return Diagnosis("wandb login", f"key in {file}" if known else "none (for logger=wandb, type wandb login)")


def disk(runs: str) -> Diagnosis:
    """Free space for run folders.

    Args:
        runs: `paths.runs`.
    """
    folder = located(runs)
    above = existing(folder)
    free = free_bytes(folder)
    value = f"{folder}  {size(free)} free"
    if not above.is_dir():
        return Diagnosis("paths.runs", value, f"{above} is not a folder. Type paths.runs=FOLDER", fatal=True)
    if not os.access(above, os.W_OK | os.X_OK):
        return Diagnosis("paths.runs", value, f"{above} is not writable. Type paths.runs=FOLDER", fatal=True)
    little = f"only {size(free)} free. Remove old checkpoints, or type paths.runs=FOLDER on another disk"
    return Diagnosis("paths.runs", value, little if free < _LITTLE else None)
