"""The tokenizer of a vision-language model, whose processor says what stands around an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from mmft.errors import UserError, first_line
from mmft.models.whole.loading import KEY


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

    def apply_chat_template(self, turns: Sequence[dict[str, Any]], **options: Any) -> str:
        """The chat template applied to turns whose `content` is a text."""
        whole = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
        return str(self.processor.apply_chat_template(whole, **{**options, "tokenize": False}))

    def written(self, prompt: str, image: str, in_chat: bool) -> str:
        """A prompt as the processor writes it, up to where the answer begins, with special tokens.

        Args:
            prompt: holds `image` once.
            image: stands for the image, here and in what is returned.
            in_chat: whether it is the user's turn in the chat template.

        Raises:
            UserError: the processor cannot place the image.
        """
        before, _, after = prompt.partition(image)
        texts = [{"type": "text", "text": text} for text in (before, after)]
        content = [part for part in (texts[0], {"type": "image"}, texts[1]) if part.get("text") != ""]
        rendered = before + self._placeholder + after
        try:
            if in_chat:
                turn = {"role": "user", "content": content}
                rendered = self.processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
            whole = self._expanded(rendered)
            head, found, rest = whole.partition(self._token)
            tail = rest[rest.rfind(self._token) + len(self._token) :] if self._token in rest else rest
            if not found or whole[len(head) : len(whole) - len(tail)].replace(self._token, ""):
                raise ValueError("it does not place one image in one piece.")
        except Exception as error:  # whatever a template or a processor raises
            hint = " Type task.chat_template=none" if in_chat else ""
            raise UserError(f"{KEY}: its processor cannot write the prompt: {first_line(error)}{hint}") from error
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
