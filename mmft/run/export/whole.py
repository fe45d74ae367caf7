"""Writes a fine-tuned vision-language model as the folder that plain transformers loads, of the class that it was.

README.md, config.json, model.safetensors, and processor and tokenizer, set to images as in the run; the adapters that
peft added beside it in `adapters/ENCODER`, in its own format
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmft.data.images.image import background_colour
from mmft.data.images.squares import Squaring, squared, squaring
from mmft.errors import UserError
from mmft.models.whole.model import WholeModel
from mmft.models.whole.parts import put_together
from mmft.models.whole.pixels import Pixels
from mmft.run.export.adapters import write_adapters
from mmft.run.export.card import square_lines, writing_card
from mmft.run.export.writing import generation_config, show_prompt
from mmft.run.saved_model import SavedModel

log = logging.getLogger(__name__)


def check_has_whole(written: str) -> None:
    """Raises UserError if the format has no place for a whole vision-language model."""
    if written not in ("hf", "transformers"):
        raise UserError(f"format={written} has no place for model.whole, which writes texts. Type format=transformers")


def write_whole(saved: SavedModel, summary: Mapping[str, Any], folder: Path) -> str:
    """Writes the model in float32; returns its model card.

    Args:
        saved: of `model.whole`, not merged.
        summary: the run's summary.json, for the model card.
        folder: exists.
    """
    from transformers import GenerationMixin

    model = saved.model
    assert isinstance(model, WholeModel)
    named = model.whole.prefixes
    adapters = write_adapters(saved, folder, {"image_encoder": named["image"], "text_encoder": named["text"]})
    saved.merge()
    model = model.float().cpu()
    whole = put_together(model.whole, {name: part.state_dict() for name, part in model.parts().items()})
    whole.generation_config = generation_config(model, model.text_encoder.never_written)
    whole.save_pretrained(folder)
    model.whole.processor.save_pretrained(folder)
    place, processor = model.whole.tokenizer.place(), model.whole.processor
    prompt = [*_to_square(saved, model), *show_prompt(saved, processor, place, _in_one_piece(model))]
    handed_on = type(whole).generate is not GenerationMixin.generate  # BLIP-2's asks its language model's settings
    settings = ", generation_config=model.generation_config" if handed_on else ""
    return writing_card(saved, summary, type(whole).__name__, prompt, settings, adapters)


def _to_square(saved: SavedModel, model: WholeModel) -> list[str]:
    """Lines of Python that make `image` the square that the run read, where the processor does not."""
    pixels, how = model.whole.pixels, squaring(saved.config.data)
    if not isinstance(pixels, Pixels) or _makes_squares(pixels, how):
        return []
    side, background = pixels.side, background_colour(saved.config.data)
    log.warning(
        "the exported processor does not make an image %s to %d x %d pixels, as the run did: do so "
        "before; the exported README.md shows how",
        *({"squash": "squashed", "crop": "cropped", "pad": "padded"}[how.resize], side, side),
    )
    return [f"side, background = {side}, {background}", *square_lines(how), "image = square"]


def _in_one_piece(model: WholeModel) -> str:
    """Arguments of the processor without which it cuts images, whatever its image processor is set to (InternVL)."""
    pixels, text = model.whole.pixels, [model.whole.tokenizer.place()]
    if not isinstance(pixels, Pixels):
        return ""
    wide = torch.zeros(3, pixels.side, 2 * pixels.side, dtype=torch.uint8)
    try:
        found = model.whole.processor(images=[wide.permute(1, 2, 0).numpy()], text=text, return_tensors="pt")
        if found["pixel_values"].shape == pixels.processed(wide)["pixel_values"].shape:
            return ""
    except Exception:  # noqa: BLE001 - of a processor that takes nothing but squares
        return ""
    return "".join(f", {name}={value}" for name, value in pixels.in_one_piece.items())


def _makes_squares(pixels: Pixels, how: Squaring) -> bool:
    """Whether the processor itself makes of an image of any size the square that the run made of it."""
    size = (3, pixels.side + 5, 2 * pixels.side + 7)
    noise = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    try:
        found = pixels.processed(noise, do_rescale=False, do_normalize=False)["pixel_values"].float()
    except Exception:  # noqa: BLE001 - whatever it raises, it makes no square
        return False
    wanted = pixels.arranged(squared(noise, pixels.side, how, (0, 0, 0))[None].float())
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= 1)
