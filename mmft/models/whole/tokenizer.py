"""The tokenizer of a vision-language model, whose processor says what stands around an image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image
from transformers import AddedToken

from mmft.errors import first_line
from mmft.models.whole.tiles import Heard, Tiles


class ImageTokenizer:
    """The processor's tokenizer, with the processor's chat template; other questions the tokenizer answers.

    Args:
        processor: of the model.
        image_token: the id in place of each token of an image.
        side: of an image in pixels.
        tiles: how images are cut, and what is written for each; None if each is one square.
    """

    def __init__(self, processor: Any, image_token: int, side: int, tiles: Tiles | None = None) -> None:
        self.processor, self.tokenizer, self.side, self.images = processor, processor.tokenizer, side, tiles
        self._token, self._placeholder = image_texts(processor, image_token)
        if not self.tokenizer.added_tokens_decoder[image_token].special:  # or it could not be told from a word
            self.tokenizer.add_tokens([AddedToken(self._token, special=True, normalized=False)], special_tokens=True)

    def __getattr__(self, name: str) -> Any:
        if name in ("processor", "tokenizer"):  # while it is being copied
            raise AttributeError(name)
        return getattr(self.tokenizer, name)

    def __call__(self, *given: Any, **options: Any) -> Any:
        """As the tokenizer."""
        return self.tokenizer(*given, **options)

    @property
    def chat_template(self) -> Any:
        """The processor's, or None."""
        return self.processor.chat_template or self.tokenizer.chat_template

    def apply_chat_template(self, turns: Sequence[dict[str, Any]], image: str | None = None, **options: Any) -> str:
        """The chat template applied to turns whose `content` is a text, in which `image` stands for the image."""
        whole = [{**turn, "content": _parts(turn["content"], image)} for turn in turns]
        return str(self.processor.apply_chat_template(whole, **{**options, "tokenize": False}))

    def written(self, prompt: str | Sequence[dict[str, Any]], image: str) -> str:
        """A prompt as the processor writes it, up to where the answer begins, with special tokens.

        Args:
            prompt: a text, or turns for the chat template; holds `image` at least once.
            image: stands for each image, here and in what is returned.

        Raises:
            ValueError: the processor cannot place the images.
        """
        try:
            if isinstance(prompt, str):
                rendered = prompt.replace(image, self._placeholder)
            else:
                asked = prompt[-1]["role"] != "assistant"
                rendered = self.apply_chat_template(prompt, image, add_generation_prompt=asked)
            whole = self._expanded(rendered)
        except Exception as error:  # whatever a template or a processor raises
            raise ValueError(first_line(error)) from error
        around = self._around_images(whole)
        if len(around) - 1 != rendered.count(self._placeholder):
            raise ValueError("it does not place each image in one piece: this model reads one image in a conversation.")
        return image.join(around)

    def image_tokens(self) -> int:
        """How many tokens the processor writes for an image."""
        return self._expanded(self._placeholder).count(self._token)

    def place(self) -> str:
        """What a prompt for the processor has where an image stands: nothing if it puts images first by itself."""
        image = Image.new("RGB", (self.side, self.side))
        try:
            ids = self.processor(text=["a"], images=[image], return_tensors="pt")["input_ids"]
        except Exception:  # noqa: BLE001 - most processors raise ValueError, of one kind or another
            return self._placeholder
        image_token = self.tokenizer.convert_tokens_to_ids(self._token)
        return "" if (ids == image_token).any() else self._placeholder

    def writes_one_piece(self, tokens: int) -> bool:
        """Whether all tokens of an image, of which there are so many, stand together."""
        return tokens * self._token in self._expanded(self._placeholder)

    def _around_images(self, whole: str) -> list[str]:
        """What stands before, between and behind the images of a prompt."""
        if self.images is None:
            return re.split(f"(?:{re.escape(self._token)}){{{self.image_tokens()}}}", whole)
        return whole.split(self.images.text(self.images.of_square.about[0]))

    def of_type_one(self) -> Literal["image", "answer"] | None:
        """Which tokens have `token_type_ids` of 1: if no token of a prompt has, those of the answer; None without."""
        found = self._processed(self._placeholder).get("token_type_ids")
        return None if found is None else "image" if np.asarray(found).any() else "answer"

    def _expanded(self, rendered: str) -> str:
        """The text that the processor gives its tokenizer, and what the tokenizer puts in front of it."""
        heard = Heard(self.tokenizer)
        self.processor.tokenizer = heard
        try:
            ids = list(np.asarray(self._processed(rendered)["input_ids"]).reshape(-1))
        finally:
            self.processor.tokenizer = self.tokenizer
        start = self.tokenizer.bos_token or ""
        text = heard.texts[0]
        if len(heard.texts) > 1 and not heard.texts[1].replace(self._token, ""):  # BLIP-2: the image apart, and first
            image = heard.texts[1]
            at = len(self.tokenizer(image, add_special_tokens=False)["input_ids"])
            text = text.replace(self._placeholder, "")
            return image + (start if self._starts(ids[at:], text) else "") + text
        return (start if self._starts(ids, text) else "") + text

    def _starts(self, ids: list[int], text: str) -> bool:
        """Whether the ids begin with a begin-of-text token that the text lacks."""
        bos = self.tokenizer.bos_token
        return bos is not None and ids[:1] == [self.tokenizer.bos_token_id] and not text.startswith(bos)

    def _processed(self, text: str) -> Any:
        """The processor's output for a text and one grey square."""
        bos = self.tokenizer.bos_token
        special = {"add_special_tokens": False} if bos is not None and text.startswith(bos) else {}
        images = [Image.new("RGB", (self.side, self.side), (128, 128, 128))] * text.count(self._placeholder)
        nested = images if len(images) == 1 else [images]
        return self.processor(text=[text], images=nested, return_tensors="pt", **special)


def image_texts(processor: Any, image_token: int) -> tuple[str, str]:
    """The text in place of each token of an image, and that of an image in a prompt that the processor is given."""
    token = str(processor.tokenizer.convert_ids_to_tokens(image_token))
    return token, str(getattr(processor, "image_token", token))


def _parts(text: str, image: str | None) -> list[dict[str, str]]:
    """The content of a turn, in which `image` stands for each image; empty texts are left out beside one."""
    if image is None or image not in text:
        return [{"type": "text", "text": text}]
    first, *others = [{"type": "text", "text": own} for own in text.split(image)]
    parts = [first, *(part for other in others for part in ({"type": "image"}, other))]
    return [part for part in parts if part.get("text") != ""]
