"""Saves the adapters that peft added in peft's own format, for use with the base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from mmft.config.schema.model import ENCODERS
from mmft.models.encoder import Encoder
from mmft.run.export.card import shown
from mmft.run.saved_model import SavedModel
from mmft.tasks.labels import shown as some

_FOLDER = "adapters"


def write_adapters(saved: SavedModel, folder: Path, prefixes: Mapping[str, str] | None = None) -> list[str]:
    """Writes each encoder's adapter as `adapters/ENCODER`, for `PeftModel.from_pretrained`.

    Args:
        saved: not merged.
        folder: of the export.
        prefixes: what stands before each encoder's names in the model that the adapters are for; None if that is the
            encoder itself.

    Returns:
        Lines of README.md about them, none without adapters.
    """
    own = {
        part: encoder for part in ENCODERS if hasattr((encoder := getattr(saved.model, part)).backbone, "peft_config")
    }
    if not own:
        return []
    written = {
        f"{part}.backbone.{name}"
        for part, encoder in own.items()
        for name in _write(encoder, folder / _FOLDER / part, "" if prefixes is None else prefixes[part])
    }
    lines = [f"In `{_FOLDER}/` ({', '.join(own)}) they are separate, in peft's format, for use with the base,"]
    lines += [f'loaded in float32: `PeftModel.from_pretrained(base, "{_FOLDER}/ENCODER")`.']
    asked = own if prefixes is None else (*ENCODERS, "fusion")
    beside = [name for name in saved.trained - written if name.partition(".")[0] in asked]
    if beside:
        lines += [f"They do not have what else the run trained: {some(sorted(beside))}."]
    return lines


def _write(encoder: Encoder, folder: Path, prefix: str) -> set[str]:
    """Writes an adapter; the names of its parameters in the backbone."""
    from peft import get_peft_model_state_dict

    backbone: Any = encoder.backbone
    folder.mkdir(parents=True)
    values = {name: value for name, value in backbone.state_dict().items() if ".default" in name}
    found = get_peft_model_state_dict(backbone, state_dict=values, save_embedding_layers=False)
    state = {f"base_model.model.{prefix}{name}": value.detach().cpu().contiguous() for name, value in found.items()}
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = backbone.peft_config["default"]
    config.base_model_name_or_path, config.inference_mode = shown(encoder.source.name), True
    layers = (name.removeprefix("backbone.") for name in encoder.adapters)
    config.target_modules = {f"{prefix}{name}" for name in layers}  # in a larger model, endings may be those of others
    config.save_pretrained(folder)
    return set(values)
