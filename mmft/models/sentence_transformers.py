"""Reads how sentence-transformers pools a text encoder: `modules.json` and the config of its pooling module."""

from __future__ import annotations

import json
import logging
from typing import Any

from mmft.models.loading.source import Source, read_json

log = logging.getLogger(__name__)

_POOLS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_OWN = {("cls",): "cls", ("mean",): "mean", ("last",): "last", ("lasttoken",): "last", ("cls", "mean"): "cls_mean"}
_APPLIED = ("Transformer", "Pooling", "Normalize")


def saved_pool(source: Source, key: str) -> str | None:
    """The pooling that sentence-transformers saved with an encoder, as a value of `pool`.

    Logs what of the folder is not applied: default prompts, dense layers, poolings that mmft does not have.

    Args:
        source: of the encoder.
        key: the config key of the encoder, for messages.

    Returns:
        None if the folder does not say, or says a pooling that mmft does not have.
    """
    modules = _modules(source)
    others = [kind for kind, _ in modules if kind not in _APPLIED]
    if others:
        log.warning("%s: %s of sentence-transformers is not applied", key, ", ".join(others))
    _tell_prompts(source, key)
    path = next((path for kind, path in modules if kind == "Pooling"), None)
    if path is None:
        return None
    config = read_json(source.folder / path / "config.json")
    modes = _modes(config)
    if (found := _OWN.get(modes)) is None:
        log.warning(
            "%s.pool=auto: sentence-transformers pools this encoder by %s, which mmft does not have",
            key,
            " and ".join(modes) or "nothing",
        )
    return found


def _modules(source: Source) -> list[tuple[str, str]]:
    """The class name and folder of every module of `modules.json`."""
    try:
        found = json.loads((source.folder / "modules.json").read_text(encoding="utf-8"))
        return [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in found]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _modes(config: dict[str, Any]) -> tuple[str, ...]:
    """The poolings whose results are concatenated, in order; newer versions write `pooling_mode`."""
    mode = config.get("pooling_mode")
    if mode is not None:
        return tuple(mode) if isinstance(mode, list) else (str(mode),)
    return tuple(name for key, name in _POOLS.items() if config.get(key))


def _tell_prompts(source: Source, key: str) -> None:
    found = read_json(source.folder / "config_sentence_transformers.json").get("prompts")
    prompts = {name: text for name, text in found.items() if text} if isinstance(found, dict) else {}
    if prompts:
        said = ", ".join(f"{name} {text!r}" for name, text in prompts.items())
        log.info(
            "%s: sentence-transformers puts prompts before this encoder's texts (%s); mmft does not. Write them into "
            "the text column where you want them",
            key,
            said,
        )
