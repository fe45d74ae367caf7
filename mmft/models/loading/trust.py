"""Code in a model folder: found before a library opens the folder, and never run unless the command allows it.

transformers runs Python files that `auto_map` names (or asks on the terminal whether to), fetches attention kernels
from the hub, and reads base models that an adapter names; unpickling weights runs whatever the pickle says.
"""

from __future__ import annotations

import logging
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mmft.clock import importing
from mmft.config.plugins import FLAG, allowed
from mmft.errors import UserError, first_line
from mmft.models.loading.source import Source, read_json

log = logging.getLogger(__name__)

_PICKLES = {
    "transformers": ("pytorch_model*.bin",),
    "timm": ("*.bin", "*.pth", "*.pt", "*.ckpt", "*.tar", "*.pkl"),
    "open_clip": ("*.bin", "*.pth"),
}
# A folder with these has its weights in safetensors.
_SAFE = {"open_clip": "open_clip*model.safetensors"}
_KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")


def check_folder(source: Source, key: str) -> None:
    """Checks a folder before timm or transformers opens it.

    Args:
        source: of the encoder.
        key: the config key of the encoder, for messages.

    Raises:
        UserError: loading it would run code, or would load something other than what lies in the folder.
    """
    where = f"{key}.name={source.name}"
    if source.library == "transformers":
        config, tokenizer = source.config, read_json(source.folder / "tokenizer_config.json")
        if not allowed():
            _check_auto_map(where, config, tokenizer)
        elif _mapped(config) or _mapped(tokenizer):
            log.warning("%s: running the code in its folder, as %s allows", where, FLAG)
        _check_config(where, source.folder, config)
    if not any(source.folder.glob(_SAFE.get(source.library, "model*.safetensors*"))):  # every library prefers these
        for pattern in _PICKLES.get(source.library, ()):
            for file in sorted(source.folder.glob(pattern)):
                _check_pickle(where, file)


def _mapped(config: dict[str, Any]) -> dict[str, Any]:
    """`auto_map`; in its old form in a tokenizer's config it is the list of the tokenizer's classes."""
    found = config.get("auto_map") or {}
    return found if isinstance(found, dict) else {"AutoTokenizer": found}


def _check_auto_map(where: str, config: dict[str, Any], tokenizer: dict[str, Any]) -> None:
    with importing():
        from transformers import CONFIG_MAPPING
        from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    model_type = config.get("model_type")
    if _mapped(config) and isinstance(model_type, str) and model_type in CONFIG_MAPPING:
        log.info("%s brings code of its own, which is not run: transformers knows the model_type %s", where, model_type)
    elif _mapped(config):
        what = f"its model_type {model_type!r} is none of transformers', so it is loaded by Python code in the folder"
        raise UserError(_refusal(where, what, "config.json", _mapped(config)))
    name = tokenizer.get("tokenizer_class")
    known = isinstance(name, str) and tokenizer_class_from_name(name) is not None
    if "AutoTokenizer" in _mapped(tokenizer) and not known:
        what = f"its tokenizer {name} is none of transformers', so it is loaded by Python code in the folder"
        raise UserError(_refusal(where, what, "tokenizer_config.json", _mapped(tokenizer)))


def _refusal(where: str, what: str, file: str, named: dict[str, Any]) -> str:
    return (
        f"{where}: {what} ({file}, auto_map: {', '.join(sorted(named))}). Read that code, and if you trust it, add "
        f"{FLAG} (allow_code=True in Python); or choose an encoder that transformers knows."
    )


def _check_config(where: str, folder: Path, config: dict[str, Any]) -> None:
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{where}: it holds an adapter (adapter_config.json), whose base may lie elsewhere. Merge the adapter into "
            "its model with peft (merge_and_unload), save that, and give its folder."
        )
    for name, kernel in _kernels(config):
        raise UserError(
            f"{where}: config.json takes {name} from the hub ({kernel}), which is code. Remove {name} from config.json."
        )
    if config.get("quantization_config"):
        raise UserError(
            f"{where}: its weights are quantized (config.json, quantization_config), so they cannot be trained. Give "
            "the original model; tune=lora_8bit and tune=lora_4bit quantize it."
        )


def _kernels(config: Any) -> Iterator[tuple[str, str]]:
    """Implementations that a config, or a config in it, wants from a hub repository `owner/name`."""
    if isinstance(config, dict):
        for name, value in config.items():
            values = value.values() if isinstance(value, dict) else [value]
            if name.removesuffix("_internal") in _KERNELS:
                yield from ((name, text) for text in values if isinstance(text, str) and "/" in text)
            else:
                yield from _kernels(value)


def _check_pickle(where: str, file: Path) -> None:
    try:
        with warnings.catch_warnings(action="ignore"):
            torch.load(file, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # noqa: BLE001 - a hostile file can raise anything
        raise UserError(
            f"{where}: {file.name} holds more than tensors, and unpickling it can run code: {first_line(error)} "
            "Give a folder with safetensors; to convert a file that you trust, load it with torch and save its "
            "tensors with safetensors.torch.save_file."
        ) from None
