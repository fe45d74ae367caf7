"""Writes a fine-tuned vision-language model as the folder that plain transformers loads, of the class that it was.

README.md, config.json, model.safetensors, and processor and tokenizer, set to images as in the run
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmft.errors import UserError
from mmft.models.whole.model import WholeModel
from mmft.models.whole.parts import put_together
from mmft.run.export.card import whole_card
from mmft.run.saved_model import SavedModel


def check_has_whole(written: str) -> None:
    """Raises UserError if the format has no place for a whole vision-language model."""
    if written not in ("hf", "transformers"):
        raise UserError(f"format={written} has no place for model.whole, which writes texts. Type format=transformers")


def write_whole(saved: SavedModel, summary: Mapping[str, Any], folder: Path) -> None:
    """Writes the model in float32.

    Args:
        saved: of `model.whole`, merged.
        summary: the run's summary.json, for the model card.
        folder: exists.
    """
    model = saved.model.float().cpu()
    assert isinstance(model, WholeModel)
    whole = put_together(model.whole, {name: part.state_dict() for name, part in model.parts().items()})
    whole.save_pretrained(folder)
    model.whole.processor.save_pretrained(folder)
    (folder / "README.md").write_text(whole_card(saved, summary, type(whole).__name__), encoding="utf-8")
