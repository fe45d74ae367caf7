"""How an exported model is asked and writes as the run's did: prompts, and settings of `generate`."""

from __future__ import annotations

import json
from typing import Any

from mmft.batch import IMAGE_PLACE
from mmft.models.language.generative_model import GenerativeModel
from mmft.models.language.prompt_tokenizer import IMAGE, TEXT
from mmft.run.saved_model import SavedModel


def generation_config(model: GenerativeModel, never: list[int]) -> Any:
    """Texts are written as the run's `task` says, where transformers has the same, without the tokens `never`."""
    import transformers

    options, end = model.decoding.options, model.text_encoder.tokenizer.eos_token_id
    sampling = {"do_sample": True, "temperature": options.temperature, "top_k": options.top_k or 0}
    sampling |= {"top_p": options.top_p or 1.0}
    return transformers.GenerationConfig(
        max_new_tokens=model.decoding.max_new_tokens,
        num_beams=options.num_beams,
        eos_token_id=end,
        pad_token_id=end,
        **(sampling if options.temperature else {}),
        **({"suppress_tokens": never} if never else {}),
    )


def unread_settings(saved: SavedModel) -> list[str]:
    """Lines of the card on what the run's texts depended on and `generate` of transformers lacks."""
    options: Any = saved.config.task
    unread = [f"task.{name}" for name in ("choices", "pattern", "stop") if getattr(options, name)]
    if options.repetition_penalty != 1 or options.no_repeat_ngram_size is not None:
        unread += ["task.repetition_penalty and task.no_repeat_ngram_size, which count within the answer alone"]
    if not unread:
        return []
    return [f"What the run wrote also depended on keys that this folder does not have: {', '.join(unread)}."]


def in_chat(saved: SavedModel) -> bool:
    """Whether the run's prompts are turns of a chat template."""
    tokenizer: Any = saved.model.text_encoder.tokenizer
    task: Any = saved.config.task
    return task.chat_template == "auto" and bool(tokenizer.plain.chat_template)


def asked(saved: SavedModel, text: str) -> str:
    """What a user says, with `<image>` in its place, of a row with this text."""
    task: Any = saved.config.task
    prompt: str = TEXT if task.prompt is None else task.prompt
    placed = prompt.replace(IMAGE, IMAGE_PLACE, 1) if IMAGE in prompt else IMAGE_PLACE + prompt
    return placed.replace(TEXT, text, 1)


def parts_of(said: str) -> list[dict[str, str]]:
    """A text with `<image>` as the content of a turn."""
    before, _, after = said.partition(IMAGE_PLACE)
    parts = [{"type": "text", "text": before}, {"type": "image"}, {"type": "text", "text": after}]
    return [part for part in parts if part.get("text") != ""]


def show_prompt(saved: SavedModel, processor: Any, place: str = IMAGE_PLACE, settings: str = "") -> list[str]:
    """Lines of Python that make the inputs of a question about `image`, for the model card.

    Args:
        saved: the run's model.
        processor: the exported one.
        place: what stands in a prompt without a chat template where the image is.
        settings: further arguments of the processor.
    """
    said, options = asked(saved, "What is this?"), f'images=[image], text=[prompt], return_tensors="pt"{settings}'
    if not in_chat(saved):
        said += "\n" * (saved.config.data.columns.messages is not None)  # each turn is a line
        return [f"prompt = {said.replace(IMAGE_PLACE, place)!r}", f"inputs = processor({options})"]
    turn = {"role": "user", "content": parts_of(said)}
    start = processor.tokenizer.bos_token
    prompt = processor.apply_chat_template([turn], add_generation_prompt=True)
    if start is not None and prompt.startswith(start):  # the template writes it
        options += ", add_special_tokens=False"
    return [
        f"turns = [{json.dumps(turn, ensure_ascii=False)}]",
        "prompt = processor.apply_chat_template(turns, add_generation_prompt=True)",
        f"inputs = processor({options})",
    ]
