"""The answer of `task=generation` to one row, piece by piece, as server-sent events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from mmft.data.splitting.splits import whole
from mmft.run import chat
from mmft.run.given_rows import table_from
from mmft.run.loaded_model import LoadedModel
from mmft.run.serve.limits import Refusal
from mmft.run.serve.rows import Answer, Row, Served, UnreadableRow, to_json, why_failed

log = logging.getLogger(__name__)
Pieces = Callable[[Row], Iterator[str]]


class Streams:
    """Writes answers a token at a time, between the batches and the tokens of other requests.

    Args:
        pieces: the text of a row, in parts.
        served: what the whole answer looks like.
        thread: an executor of one thread, in which the model computes.
        most: answers that are written at a time.
        on_end: called with the last answer of each stream.
    """

    def __init__(
        self, pieces: Pieces, served: Served, thread: Executor, most: int, on_end: Callable[[Answer], None]
    ) -> None:
        self._pieces, self._served, self._thread, self._on_end = pieces, served, thread, on_end
        self._most, self._running = most, 0

    def check_free(self) -> None:
        """Raises Refusal if no further answer can be written now."""
        if self._running >= self._most:
            raise Refusal(503, f"{self._running} answers are being streamed, and at most {self._most} may. Try later")

    async def events(self, given: Any) -> AsyncIterator[bytes]:
        """`{"piece": TEXT}` for each piece, and then `{"predictions": [...]}`, as without streaming but for scores.

        Args:
            given: a row as sent.
        """
        self._running += 1
        loop, written, why = asyncio.get_running_loop(), "", None
        try:
            pieces = await loop.run_in_executor(self._thread, self._pieces, self._served.reader.row(given))
            while (piece := await loop.run_in_executor(self._thread, next, pieces, None)) is not None:
                written += piece
                yield _event({"piece": piece})
        except Exception as error:  # noqa: BLE001 - told or logged by `why_failed`
            why = why_failed(error)
        finally:
            self._running -= 1
        told = self._served.unreadable(why) if why else self._served.answer(prediction=written)
        numbered = self._served.numbered([told], [given])
        self._on_end(numbered[0])
        yield _event({"predictions": numbered})


def pieces_of(model: LoadedModel, served: Served) -> Pieces | None:
    """What writes the text of a row in parts; None for a model that writes no texts, or chooses among given ones."""
    task: Any = model.saved.config.task
    if not model.saved.task.facts.generates or task.choices is not None:
        return None

    def pieces(row: Row) -> Iterator[str]:
        batch = next(iter(model.batches(whole(table_from([row], served.data, Path())), served.data)))
        if batch.bad:
            raise UnreadableRow(batch.bad[0].why)
        return chat.pieces_of(model.saved, batch, model.device)

    return pieces


def _event(content: Any) -> bytes:
    return b"data: " + to_json(content) + b"\n\n"
