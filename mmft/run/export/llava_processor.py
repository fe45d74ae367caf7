"""The processor of an exported LLaVA: images as in the run, and prompts by the same chat template."""

from __future__ import annotations

import copy
from typing import Any

from mmft.batch import IMAGE_PLACE
from mmft.data.images.squares import squaring
from mmft.models.preprocessing import patch_size_of
from mmft.run.export.encoders import processor_of
from mmft.run.export.writing import in_chat
from mmft.run.saved_model import SavedModel

_PARTS_AS_TEXT = (
    "{%- set turns = namespace(found=[]) -%}"
    "{%- for message in messages -%}"
    "{%- if message['content'] is string -%}{%- set content = message['content'] -%}"
    "{%- else -%}{%- set own = namespace(text='') -%}"
    "{%- for part in message['content'] -%}"
    "{%- set own.text = own.text + ('<image>' if part['type'] == 'image' else part['text']) -%}"
    "{%- endfor -%}{%- set content = own.text -%}{%- endif -%}"
    "{%- set turns.found = turns.found + [dict(message, content=content)] -%}"
    "{%- endfor -%}"
    "{%- set messages = turns.found -%}"
)
"""In front of a language model's template, which takes texts: a turn's parts become one text."""


def llava_processor(saved: SavedModel) -> Any:
    """A LlavaProcessor, with `<image>` among the special tokens of the run's tokenizer."""
    import transformers

    model: Any = saved.model
    encoder = model.image_encoder
    images = {
        name: value for name, value in processor_of(encoder, squaring(saved.config.data)).items() if "type" not in name
    }
    tokenizer: Any = copy.deepcopy(model.text_encoder.tokenizer.plain)
    tokenizer.add_tokens([transformers.AddedToken(IMAGE_PLACE, special=True, normalized=False)], special_tokens=True)
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"  # the latter is saved
    tokenizer.model_max_length = model.text_encoder.positions
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    template = _PARTS_AS_TEXT + tokenizer.chat_template if in_chat(saved) else None
    tokenizer.chat_template = None
    return transformers.LlavaProcessor(
        image_processor=transformers.BitImageProcessor(**images),
        tokenizer=tokenizer,
        patch_size=_patch_side(encoder),
        vision_feature_select_strategy="default" if encoder.prefix else "full",
        image_token=IMAGE_PLACE,
        num_additional_image_tokens=encoder.prefix,
        chat_template=template,
    )


def _patch_side(encoder: Any) -> int:
    side = patch_size_of(encoder.backbone)
    return int(side[0] if isinstance(side, list | tuple) else side)
