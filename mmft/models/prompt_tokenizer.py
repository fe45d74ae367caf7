"""A row's text as the tokens of its prompt, in the language model's chat template if it has one.

A prompt is a prefix, the image, and the rest. The prefix is the same for every row, so the place of the image is one
constant of a run. The rest is tokenised as one string with the text in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from mmft.errors import UserError, first_line

TEXT = "{text}"
_IMAGE_MARK, _TEXT_MARK = "<mmft:image>", "<mmft:text>"


class PromptTokenizer:
    """Callable as a tokenizer of transformers: texts -> token ids of their prompts.

    Args:
        tokenizer: the language model's own; whatever else is asked of this one, it answers.
        prompt: as `task.prompt`: a fixed text, `{text}` standing for the row's own; None for that alone.
        chat_template: `auto` or `none`.

    Raises:
        UserError: the chat template cannot be applied.

    Attributes:
        prefix: tokens in front of the image.
        empty: tokens of the prompt of an empty text.
    """

    is_fast = False  # the data room asks it for token ids alone

    def __init__(
        self, tokenizer: Any, prompt: str | None = None, chat_template: Literal["auto", "none"] = "auto"
    ) -> None:
        self.tokenizer = tokenizer
        template = TEXT if prompt is None else prompt
        before, _, after = template.replace(TEXT, _TEXT_MARK, 1).partition(_TEXT_MARK)
        self._has_text = TEXT in template
        opening = ""
        if chat_template == "auto" and tokenizer.chat_template:
            opening, before, after = self._in_chat(before, after)
            self.prefix = self._ids(opening)
        else:
            self.prefix = [i for i in tokenizer("")["input_ids"] if i == tokenizer.bos_token_id]
        self._parts = before, after
        self._names = repr((opening, before, after))
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
        """The prompts' token ids by `input_ids`, special tokens included.

        Args:
            texts: one for each prompt; not read if the prompt is fixed.
            truncation: whether to cut a text so that its prompt has at most `max_length` tokens; nothing else is cut.
            max_length: the maximum.

        Raises:
            UserError: the prompt is too long without any text.
        """
        before, after = self._parts
        strings = [before + (text if self._has_text else "") + after for text in texts]
        rest = self.tokenizer(strings, add_special_tokens=False)["input_ids"] if strings else []
        whole = [[*self.prefix, *ids] for ids in rest]
        if not truncation:
            return {"input_ids": whole}
        return {
            "input_ids": [
                ids if len(ids) <= max_length else self._cut(text, max_length)
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
        room = max_length - len(self.prefix) - len(before) - len(after)
        if room < 0:
            least = max_length - room
            raise UserError(
                f"model.text_encoder.max_length={max_length}: the prompt without any text has {least} tokens. "
                f"Type model.text_encoder.max_length={least + max_length}, or task.chat_template=none"
            )
        return [*self.prefix, *before, *self._ids(text if self._has_text else "")[:room], *after]

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def _in_chat(self, before: str, after: str) -> tuple[str, str, str]:
        """What the chat template writes in front of the image, between it and the text, and behind the text."""
        turn = {"role": "user", "content": f"{_IMAGE_MARK}{before}{_TEXT_MARK}{after}"}
        try:
            chat = self.tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
            opening, rest = chat.split(_IMAGE_MARK)
            before, after = rest.split(_TEXT_MARK)
        except Exception as error:  # whatever a template raises
            raise UserError(
                f"model.text_encoder.name: its chat template cannot be applied: {first_line(error)} "
                "Type task.chat_template=none"
            ) from error
        return opening, before, after
