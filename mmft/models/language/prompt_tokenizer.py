"""A row's text, or its conversation, as the tokens of its prompt, in the language model's chat template if it has one.

The place of the image is one mark among the tokens, which the model replaces with what the image becomes. What stands
before and after the image is tokenised apart, and so is every answer: which tokens are learned is never searched for.
Special tokens in a row's own words (`<|im_end|>`) are read as plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from mmft.batch import IMAGE_PLACE, Conversation, Turn
from mmft.batch.images import ImagesInPrompt
from mmft.errors import UserError
from mmft.models.language.chat_template import IMAGE_TEXT, ChatTemplate, Shape

TEXT, IMAGE = "{text}", "{image}"
IMAGE_MARK = -1
"""In place of a token: here stands the image."""
_TEXT, _ANSWER = "<mmft:text>", "a"


def learned(token: Any) -> Any:
    """A prompt's token, or a tensor of them, that is learned: as a number below `IMAGE_MARK`; and back.

    Such are the earlier answers of a conversation.
    """
    return 2 * IMAGE_MARK - token


class _Words(str):
    """A row's own words; other texts are of the template or of `task.prompt`."""


class _Run(NamedTuple):
    """Texts that are tokenised as one."""

    texts: tuple[str, ...]
    learned: bool = False


_Prompt = list["list[int] | _Run"]  # tokens and runs of a prompt, in order


def _with_images(texts: Sequence[str]) -> _Prompt:
    """One run, or several around images."""
    found: _Prompt = []
    run: list[str] = []
    for text in texts:
        first, *others = [text] if isinstance(text, _Words) else text.split(IMAGE_TEXT)
        run.append(first)
        for other in others:
            found += [_Run(tuple(run)), [IMAGE_MARK]]
            run = [other]
    return [*found, _Run(tuple(run))]


class PromptTokenizer:
    """Callable as a tokenizer of transformers: texts or conversations -> token ids of their prompts.

    Args:
        tokenizer: the language model's own; whatever else is asked of this one, it answers. If it has a method
            `written` (`mmft.models.whole.tokenizer.ImageTokenizer`), that writes the prompt around text and image.
        prompt: as `task.prompt`: a fixed text, in which `{text}` stands for the row's own, and `{image}` for the image,
            which otherwise comes first; None for the row's text alone. Conversations are read without it.
        chat_template: `auto` or `none`.

    Raises:
        UserError: the chat template cannot be applied.

    Attributes:
        empty: tokens of the prompt of an empty text.
        images: what is written for images in pieces, once a model has said so.
    """

    images: ImagesInPrompt
    is_fast = False  # the data room asks it for token ids alone

    def __init__(
        self, tokenizer: Any, prompt: str | None = None, chat_template: Literal["auto", "none"] = "auto"
    ) -> None:
        self.tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer, chat_template == "auto")
        asked = TEXT if prompt is None else prompt
        self._has_text = TEXT in asked
        written = asked.replace(TEXT, _TEXT, 1).replace(IMAGE, IMAGE_TEXT, 1)
        written = written if IMAGE in asked else IMAGE_TEXT + written
        self._start: list[int] = []
        if hasattr(tokenizer, "written"):
            written = self._by_processor(written)
        elif self._template.text is None:
            self._start = [i for i in tokenizer("")["input_ids"] if i == tokenizer.bos_token_id]
        else:
            before, after = self._in_chat("user")
            written = before + written + after
        head, _, tail = written.partition(IMAGE_TEXT)
        self._text_first = _TEXT in head
        own, other = (head, tail) if self._text_first else (tail, head)
        before, _, after = own.partition(_TEXT)
        self._parts = before, after  # of the string that the text is tokenised with
        self._head = self._start if self._text_first else [*self._start, *self._ids(other), IMAGE_MARK]
        self._tail = [IMAGE_MARK, *self._ids(other)] if self._text_first else []
        self._ending = self._end_of_answer()
        self._gap, self._lead = self._space_of_answer()
        names = (self._head, before, after, self._tail, self._template.text)
        self._names = repr((*names, self._lead) if self._lead else names)
        self.empty = self([""])["input_ids"][0]

    def __getattr__(self, name: str) -> Any:
        if name == "tokenizer":  # while it is being copied
            raise AttributeError(name)
        return getattr(self.tokenizer, name)

    @property
    def name_or_path(self) -> str:
        """The tokenizer's own and the prompt, which together identify the tokens."""
        return f"{self.tokenizer.name_or_path} {self._names}"

    @property
    def plain(self) -> Any:
        """The tokenizer of transformers by itself."""
        return getattr(self.tokenizer, "tokenizer", self.tokenizer)  # that of a whole model is within its processor's

    @property
    def eos_token_id(self) -> int:
        """What ends an answer: the chat template's end of turn, such as `<|im_end|>`, or the end-of-text token."""
        return self._ending[-1]

    def __call__(
        self, texts: Sequence[str | Conversation], truncation: bool = False, max_length: int = 0, **_: Any
    ) -> dict[str, Any]:
        """The prompts' token ids by `input_ids`, special tokens and an `IMAGE_MARK` each included.

        By `problems` a dict of reasons, by position, why a conversation has no prompt; its ids are then empty.

        Args:
            texts: one for each prompt, not read if the prompt is fixed; or conversations.
            truncation: whether to cut a text so that its prompt has at most `max_length` tokens beside the image;
                nothing else is cut. A conversation that is longer is a problem.
            max_length: the maximum.

        Raises:
            UserError: the prompt is too long without any text.
        """
        problems: dict[int, str] = {}
        prompts: list[_Prompt] = []
        for at, text in enumerate(texts):
            try:
                prompts.append(self._of_text(text) if isinstance(text, str) else self._of_conversation(text))
            except ValueError as error:
                problems[at] = f"its chat template cannot be applied: {error}"
                prompts.append([])
        whole = self._tokenized(prompts)
        for at, (text, ids) in enumerate(zip(texts, whole, strict=True)):
            own = len(ids) - ids.count(IMAGE_MARK)
            if not truncation or own <= max_length:
                continue
            if isinstance(text, str):
                whole[at] = self._cut(text, max_length)
                continue
            whole[at] = []
            problems[at] = (
                f"the conversation has {own} tokens beside the image, more than "
                f"model.text_encoder.max_length={max_length}"
            )
        return {"input_ids": whole, "problems": problems}

    def answer(self, text: str) -> list[int]:
        """Token ids of an answer, and of what ends it."""
        return [*self._tokenized([[_Run((self._lead, _Words(text)))]])[0], *self._ending]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer's token ids."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _of_text(self, text: str) -> _Prompt:
        before, after = self._parts
        return [self._head, _Run((before, _Words(text if self._has_text else ""), after)), self._tail]

    def _of_conversation(self, turns: Conversation) -> _Prompt:
        """The image comes first in the first turn of a user, or where a turn says. Raises ValueError."""
        first = next(at for at, turn in enumerate(turns) if turn.role == "user")
        if not any(IMAGE_PLACE in turn.text for turn in turns):
            turns = (*turns[:first], Turn("user", IMAGE_PLACE + turns[first].text), *turns[first + 1 :])
        pieces = [[piece for piece in re.split(f"({IMAGE_PLACE})", turn.text) if piece] for turn in turns]
        shapes = [
            Shape(turn.role, tuple(map(IMAGE_PLACE.__eq__, own))) for turn, own in zip(turns, pieces, strict=True)
        ]
        before, *behind = self._template.around(shapes)
        trims = iter(self._template.trims(shapes))
        found: _Prompt = [self._start]
        texts = [before]
        words = [
            (turn.role, _Words(next(trims)(one)))
            for turn, own in zip(turns, pieces, strict=True)
            for one in own
            if one != IMAGE_PLACE
        ]
        for (role, text), after in zip(words, behind, strict=True):
            if role != "assistant":
                texts += [text, after]
                continue
            ending = self._template.ending(after)
            texts[-1] = texts[-1].removesuffix(self._gap)
            found += [*_with_images(texts), _Run((self._lead, text), learned=True), _Run((ending,), learned=True)]
            texts = [after.removeprefix(ending)]
        return [*found, *_with_images(texts)]

    def _tokenized(self, prompts: Sequence[_Prompt]) -> list[list[int]]:
        """Token ids of each."""
        runs = [part for prompt in prompts for part in prompt if isinstance(part, _Run)]
        special = self._template.special_tokens
        apart = [any(isinstance(text, _Words) and special.search(text) for text in run.texts) for run in runs]
        strings = ["".join(run.texts) for run, alone in zip(runs, apart, strict=True) if not alone]
        together = iter(self.tokenizer(strings, add_special_tokens=False)["input_ids"] if strings else ())
        ids = iter(
            [self._apart(run.texts) if alone else next(together) for run, alone in zip(runs, apart, strict=True)]
        )

        def of(part: list[int] | _Run) -> list[int]:
            if not isinstance(part, _Run):
                return part
            return list(map(learned, next(ids))) if part.learned else next(ids)

        return [[token for part in prompt for token in of(part)] for prompt in prompts]

    def _apart(self, texts: Iterable[str]) -> list[int]:
        """Token ids of texts, of which words have no special tokens: what stands between the others' is tokenised."""
        found: list[int] = []
        plain = ""
        for text in texts:
            at = 0
            for token in () if isinstance(text, _Words) else self._template.special_tokens.finditer(text):
                found += [*self._plain_ids(plain + text[at : token.start()]), *self._ids(token[0])]
                plain, at = "", token.end()
            plain += text[at:]
        return [*found, *self._plain_ids(plain)]

    def _cut(self, text: str, max_length: int) -> list[int]:
        """A prompt whose text is cut to what is left beside the rest."""
        before, after = map(self._ids, self._parts)
        room = max_length + 1 - len(self._head) - len(before) - len(after) - len(self._tail)
        if room < 0:
            least = max_length - room
            raise UserError(
                f"model.text_encoder.max_length={max_length}: the prompt without any text has {least} tokens. "
                f"Type model.text_encoder.max_length={least + max_length}"
                f"{'' if self._template.text is None else ', or task.chat_template=none'}"
            )
        own = self._plain_ids(text if self._has_text else "")[:room]
        return [*self._head, *before, *own, *after, *self._tail]

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def _plain_ids(self, text: str) -> list[int]:
        """Of a text in which special tokens are plain text."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return found

    def _by_processor(self, prompt: str) -> str:
        """The prompt as the processor writes it."""
        in_chat = self._template.text is not None
        try:
            return str(self.tokenizer.written([{"role": "user", "content": prompt}] if in_chat else prompt, IMAGE_TEXT))
        except ValueError as error:
            hint = " Type task.chat_template=none" if in_chat else ""
            raise UserError(f"model.whole: its processor cannot write the prompt: {error}{hint}") from error

    def _in_chat(self, *roles: str) -> list[str]:
        """What the chat template writes around turns."""
        try:
            return self._template.around([Shape(role) for role in roles])
        except ValueError as error:
            raise UserError(
                f"model.text_encoder.name: its chat template cannot be applied: {error} Type task.chat_template=none"
            ) from error

    def _end_of_answer(self) -> list[int]:
        """Token ids of what the chat template writes behind an answer, up to its first special token."""
        ending = "" if self._template.text is None else self._template.ending(self._in_chat("user", "assistant")[-1])
        return self._ids(ending) or [self.tokenizer.eos_token_id]

    def _space_of_answer(self) -> tuple[str, str]:
        """What the template has between where an answer begins and the answer, if only space, and what an answer
        begins with, so that its tokens are those of the template's text: the same, or nothing if the tokenizer puts it
        there.
        """
        if self._template.text is None:
            return "", ""
        before = self._in_chat("user")[-1]
        gap = self._in_chat("user", "assistant")[1].removeprefix(before)
        wanted = self._ids(before + gap + _ANSWER)
        fitting = [lead for lead in (gap, "") if self._ids(before) + self._ids(lead + _ANSWER) == wanted]
        return (gap, fitting[0]) if fitting and gap.isspace() else ("", "")
