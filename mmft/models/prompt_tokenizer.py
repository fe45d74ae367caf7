"""A row's text as the tokens of its prompt, in the language model's chat template if it has one.

The place of the image is one mark among the tokens, which the model replaces with what the image becomes. What stands
before and after the image is tokenised apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from mmft.errors import UserError, first_line

TEXT, IMAGE = "{text}", "{image}"
IMAGE_MARK = -1
"""In place of a token: here stands the image."""
_IMAGE, _TEXT = "<mmft:image>", "<mmft:text>"


class PromptTokenizer:
    """Callable as a tokenizer of transformers: texts -> token ids of their prompts.

    Args:
        tokenizer: the language model's own; whatever else is asked of this one, it answers.
        prompt: as `task.prompt`: a fixed text, in which `{text}` stands for the row's own, and `{image}` for the image,
            which otherwise comes first; None for the row's text alone.
        chat_template: `auto` or `none`.

    Raises:
        UserError: the chat template cannot be applied.

    Attributes:
        empty: tokens of the prompt of an empty text.
    """

    is_fast = False  # the data room asks it for token ids alone

    def __init__(
        self, tokenizer: Any, prompt: str | None = None, chat_template: Literal["auto", "none"] = "auto"
    ) -> None:
        self.tokenizer = tokenizer
        asked = TEXT if prompt is None else prompt
        self._has_text = TEXT in asked
        written = asked.replace(TEXT, _TEXT, 1).replace(IMAGE, _IMAGE, 1)
        written = written if IMAGE in asked else _IMAGE + written
        start: list[int] = []
        if chat_template == "auto" and tokenizer.chat_template:
            written = self._in_chat(written)
        else:
            start = [i for i in tokenizer("")["input_ids"] if i == tokenizer.bos_token_id]
        head, _, tail = written.partition(_IMAGE)
        self._text_first = _TEXT in head
        own, other = (head, tail) if self._text_first else (tail, head)
        before, _, after = own.partition(_TEXT)
        self._parts = before, after  # of the string that the text is tokenised with
        self._head = start if self._text_first else [*start, *self._ids(other), IMAGE_MARK]
        self._tail = [IMAGE_MARK, *self._ids(other)] if self._text_first else []
        self._names = repr((self._head, before, after, self._tail))
        self.empty = self([""])["input_ids"][0]

    def __getattr__(self, name: str) -> Any:
        if name == "tokenizer":  # while it is being copied
            raise AttributeError(name)
        return getattr(self.tokenizer, name)

    @property
    def name_or_path(self) -> str:
        """The tokenizer's own and the prompt, which together identify the tokens."""
        return f"{self.tokenizer.name_or_path} {self._names}"

    def __call__(
        self, texts: Sequence[str], truncation: bool = False, max_length: int = 0, **_: Any
    ) -> dict[str, list[list[int]]]:
        """The prompts' token ids by `input_ids`, special tokens and an `IMAGE_MARK` each included.

        Args:
            texts: one for each prompt; not read if the prompt is fixed.
            truncation: whether to cut a text so that its prompt has at most `max_length` tokens beside the image;
                nothing else is cut.
            max_length: the maximum.

        Raises:
            UserError: the prompt is too long without any text.
        """
        before, after = self._parts
        strings = [before + (text if self._has_text else "") + after for text in texts]
        own = self.tokenizer(strings, add_special_tokens=False)["input_ids"] if strings else []
        whole = [[*self._head, *ids, *self._tail] for ids in own]
        if not truncation:
            return {"input_ids": whole}
        return {
            "input_ids": [
                ids if len(ids) - 1 <= max_length else self._cut(text, max_length)
                for text, ids in zip(texts, whole, strict=True)
            ]
        }

    def answer(self, text: str) -> list[int]:
        """Token ids of an answer, and the end-of-text token."""
        return [*self._ids(text), self.tokenizer.eos_token_id]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer's token ids."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _cut(self, text: str, max_length: int) -> list[int]:
        """A prompt whose text is cut to what is left beside the rest."""
        before, after = map(self._ids, self._parts)
        room = max_length + 1 - len(self._head) - len(before) - len(after) - len(self._tail)
        if room < 0:
            least = max_length - room
            raise UserError(
                f"model.text_encoder.max_length={max_length}: the prompt without any text has {least} tokens. "
                f"Type model.text_encoder.max_length={least + max_length}, or task.chat_template=none"
            )
        own = self._ids(text if self._has_text else "")[:room]
        return [*self._head, *before, *own, *after, *self._tail]

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def _in_chat(self, written: str) -> str:
        """The prompt as the user's turn, up to where the answer begins."""
        turn = {"role": "user", "content": written}
        try:
            chat = str(self.tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True))
            if chat.count(_IMAGE) != 1 or chat.count(_TEXT) != written.count(_TEXT):
                raise ValueError("it does not repeat the user's turn once.")
        except Exception as error:  # whatever a template raises
            raise UserError(
                f"model.text_encoder.name: its chat template cannot be applied: {first_line(error)} "
                "Type task.chat_template=none"
            ) from error
        return chat
