"""The tokenizer of a vision-language model, whose processor says what stands around an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from mmft.errors import first_line


class ImageTokenizer:
    """The processor's tokenizer, with the processor's chat template; other questions the tokenizer answers.

    Args:
        processor: of the model.
        image_token: the id in place of each token of an image.
        side: of an image in pixels.
    """

    def __init__(self, processor: Any, image_token: int, side: int) -> None:
        self.processor, self.tokenizer, self.side = processor, processor.tokenizer, side
        self._token = str(self.tokenizer.convert_ids_to_tokens(image_token))
        self._placeholder = str(getattr(processor, "image_token", self._token))

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
            prompt: a text, or turns for the chat template; holds `image` once.
            image: stands for the image, here and in what is returned.

        Raises:
            ValueError: the processor cannot place the image.
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
        head, found, rest = whole.partition(self._token)
        tail = rest[rest.rfind(self._token) + len(self._token) :] if self._token in rest else rest
        if not found or whole[len(head) : len(whole) - len(tail)].replace(self._token, ""):
            raise ValueError("it does not place one image in one piece.")
        return head + image + tail

    def image_tokens(self) -> int:
        """How many tokens the processor writes for an image."""
        return self._expanded(self._placeholder).count(self._token)

    def of_type_one(self) -> Literal["image", "answer"] | None:
        """Which tokens have `token_type_ids` of 1: if no token of a prompt has, those of the answer; None without."""
        found = self._processed(self._placeholder).get("token_type_ids")
        return None if found is None else "image" if np.asarray(found).any() else "answer"

    def _expanded(self, rendered: str) -> str:
        """The text that the processor gives its tokenizer, and what the tokenizer puts in front of it."""
        heard = _Heard(self.tokenizer)
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
        image = np.full((self.side, self.side, 3), 128, dtype=np.uint8)
        return self.processor(text=[text], images=[image], **special)


def _parts(text: str, image: str | None) -> list[dict[str, str]]:
    """The content of a turn, in which `image` stands for the image; empty texts are left out beside it."""
    if image is None or image not in text:
        return [{"type": "text", "text": text}]
    before, _, after = text.partition(image)
    parts = [{"type": "text", "text": before}, {"type": "image"}, {"type": "text", "text": after}]
    return [part for part in parts if part.get("text") != ""]


class _Heard:
    """A tokenizer that notes the texts that it is given."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.texts: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: Any, *given: Any, **options: Any) -> Any:
        self.texts += [text] if isinstance(text, str) else list(text)
        return self._tokenizer(text, *given, **options)
