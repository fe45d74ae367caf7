"""A conversation with a finished run of `task=generation`, answered piece by piece."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmft.batch import IMAGE_PLACE, Batch, Conversation, Turn
from mmft.batch.images import Images
from mmft.config.schema.data import DataConfig
from mmft.data.conversations import check_places, conversation_of, with_places
from mmft.data.splitting.splits import Split, whole
from mmft.errors import UserError
from mmft.models.inference import full_precision
from mmft.models.language.generative_model import GenerativeModel
from mmft.models.language.prompt_tokenizer import IMAGE, IMAGE_MARK, TEXT
from mmft.run.given_rows import table_from
from mmft.run.saved_model import SavedModel
from mmft.tasks.answer_texts import cut

log = logging.getLogger(__name__)
_TURNS = "messages"  # of a row that may have several images: a conversation alone has places for them
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # of which the language model has written the first bytes


def _check_task(saved: SavedModel) -> None:
    if not isinstance(saved.model, GenerativeModel):
        raise UserError(
            f"chat: the run has task={saved.config.task.type}, which writes no texts. Use predict, or a run of "
            "task=generation"
        )


def image_row(saved: SavedModel, image: Any, root: Path) -> tuple[Split, DataConfig]:
    """A row with an image, or a list of several, alone, and how it is read.

    Raises:
        UserError: the run writes no texts.
    """
    _check_task(saved)
    own = saved.config.data
    several = isinstance(image, list | tuple)
    config = replace(own, columns=replace(own.columns, text=None, messages=_TURNS if several else None, id=None))
    row: dict[Any, Any] = {
        own.columns.image: image,
        **({_TURNS: [{"role": "user", "content": "."}]} if several else {}),
    }
    return whole(table_from([row], config, root)), config


def answer(
    saved: SavedModel, messages: Sequence[Mapping[str, str]] | str, batch: Batch | None, device: torch.device
) -> Iterator[str]:
    """The answer to the last turn of a conversation, in pieces that are final.

    Args:
        saved: the run, of `task=generation`.
        messages: the turns, or the text of one of a user.
        batch: its only row has the image; None for none.
        device: where the model runs.

    Raises:
        UserError: the image cannot be read, or the conversation is none, or too long.
    """
    model: Any = saved.model
    if batch is not None and batch.bad:
        raise UserError(f"image: {batch.bad[0].reason}")
    in_pieces = model.images.cuts or (batch is not None and batch.images is not None)
    count = 0 if batch is None else 1 if batch.images is None else int(batch.images.count)
    prompt = _prompt(saved, messages, count)
    yes = torch.tensor([True])
    row, weight = torch.zeros(1, dtype=torch.int64), torch.ones(1)
    nothing = Batch(None, None, None, image_present=~yes, text_present=yes, row=row, weight=weight)
    if not in_pieces:
        _check_length(model, len(prompt) - 1, model.image_tokens)
    else:
        nothing.images = Images(torch.tensor([1]), model.images.missing)
        images = nothing.images if batch is None else batch.images
        assert images is not None
        about = images.pieces.about
        prompt = model.images.expanded(prompt, about)
        of_images = prompt.count(IMAGE_MARK)
        _check_length(model, len(prompt) - of_images, of_images)
    ids = torch.tensor([prompt])
    asked = replace(batch or nothing, input_ids=ids, attention_mask=torch.ones_like(ids).bool(), text_present=yes)
    return pieces_of(saved, asked, device)


def pieces_of(saved: SavedModel, batch: Batch, device: torch.device) -> Iterator[str]:
    """The text of a batch's only row, in pieces that are final."""
    model: Any = saved.model
    exact = full_precision(saved.config.trainer.precision) == "64-true"
    model.to(device=device, dtype=torch.float64 if exact else torch.float32).eval()
    return _pieces(model.stream(batch.to(device)), model.text_encoder.tokenizer.decode, model.decoding.options.stop)


def _prompt(saved: SavedModel, messages: Sequence[Mapping[str, str]] | str, images: int) -> list[int]:
    """Token ids: what the user says stands in the run's prompt; the only turn is read as the text of a row."""
    try:
        if isinstance(messages, str):  # empty as the text of a row may be
            turns: Conversation = (Turn("user", messages.strip()),)
        else:
            turns = conversation_of(messages)
        check_places(sum(turn.text.count(IMAGE_PLACE) for turn in turns), images)
        turns = with_places(turns, images)
    except ValueError as error:
        raise UserError(f"messages: {error}") from None
    if turns[-1].role == "assistant":
        raise UserError("messages: the last turn is the assistant's, so there is nothing to answer. Leave it out")
    config: Any = saved.config
    prompt = config.task.prompt or TEXT
    given: str | Conversation = turns[0].text
    typed = any(IMAGE_PLACE in turn.text for turn in turns)
    if len(turns) > 1 or typed or TEXT not in prompt or config.data.columns.messages is not None:
        given = tuple(_in_prompt(turns, prompt, typed))
    tokenizer: Any = saved.model.text_encoder.tokenizer
    longest = saved.model.text_encoder.max_length
    found = tokenizer([given], truncation=isinstance(given, str), max_length=longest)  # turns may be as long as fits
    if found["problems"]:
        raise UserError(f"messages: {found['problems'][0]}")
    ids: list[int] = found["input_ids"][0]
    if isinstance(given, str) and len(ids) >= longest and len(tokenizer([given])["input_ids"][0]) > len(ids):
        log.warning("messages: the text is cut, as a row's is, to model.text_encoder.max_length=%d", longest)
    return ids


def _in_prompt(turns: Conversation, prompt: str, typed: bool) -> Iterator[Turn]:
    """The turns with the user's put into the prompt, if it has a place for texts; `typed`: one has the image's."""
    place = "" if typed else IMAGE_PLACE
    for turn in turns:
        if turn.role != "user" or TEXT not in prompt:
            yield turn
            continue
        yield turn._replace(text=prompt.replace(IMAGE, place).replace(TEXT, turn.text, 1))
        place = ""


def _check_length(model: Any, length: int, of_images: int) -> None:
    text = model.text_encoder
    if (needed := length + of_images + model.decoding.max_new_tokens) > text.positions:
        raise UserError(
            f"messages: with {length} tokens, {of_images} of the image and at most "
            f"{model.decoding.max_new_tokens} of the answer (task.max_new_tokens) that makes {needed}, but "
            f"{text.source.name} has {text.positions} positions. Leave out the first turns, or shorten the last one"
        )


def _pieces(tokens: Iterator[int], decode: Any, stops: Sequence[str]) -> Iterator[str]:
    """The text of the tokens up to the first stop text, as soon as each part of it is certain."""
    written: list[int] = []
    text = told = ""
    for token in tokens:
        written.append(token)
        text = cut(decode(written), stops)
        certain = text.rstrip(_UNFINISHED)
        certain = certain[: len(certain) - _begun(certain, stops)]
        if len(certain) > len(told):
            yield certain[len(told) :]
            told = certain
    if len(text) > len(told):
        yield text[len(told) :]


def _begun(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of the text may be the beginning of a stop text."""
    return max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
