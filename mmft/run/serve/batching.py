"""Gathers the rows of many requests into batches by time and number, and computes them in one thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass

from mmft.run.serve.limits import Refusal
from mmft.run.serve.rows import Answer, Row


@dataclass(frozen=True)
class _Waiting:
    """The rows of one request, and where their answers go; cancelled once nobody waits for them."""

    rows: Sequence[Row]
    answers: asyncio.Future[list[Answer]]
    since: float


class Batcher:
    """Computes requests in order of arrival, several at once.

    All of it but `compute` happens in the event loop's thread.

    Args:
        compute: rows to as many answers, in order; called in `thread`.
        thread: an executor of one thread, which may be shared.
        max_batch: a batch is full with so many rows; a larger request is a batch of its own.
        max_wait: seconds that the first request of a batch waits for others.
        max_queue: rows that may wait.
        merges: whether requests are computed together at all.
        on_batch: called with the number of rows of each batch.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Row]], list[Answer]],
        thread: Executor,
        *,
        max_batch: int,
        max_wait: float,
        max_queue: int,
        merges: bool = True,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._compute, self._thread, self._on_batch = compute, thread, on_batch
        self._max_batch, self._max_wait, self._max_queue = max_batch if merges else 1, max_wait, max_queue
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self.waiting = 0

    async def answers(self, rows: Sequence[Row]) -> list[Answer]:
        """The answers to a request's rows. The rows of a caller that is cancelled are not computed.

        Raises:
            Refusal: too many rows are waiting.
        """
        if not rows:
            return []
        if self.waiting + len(rows) > self._max_queue:
            raise Refusal(503, f"{self.waiting} rows are waiting, and at most {self._max_queue} may. Try again later")
        loop = asyncio.get_running_loop()
        one = _Waiting(rows, loop.create_future(), loop.time())
        self.waiting += len(rows)
        self._queue.put_nowait(one)
        return await one.answers

    async def run(self) -> None:
        """Computes batches until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [one for one in await self._gather() if not one.answers.cancelled()]
            if not batch:
                continue
            rows = [row for one in batch for row in one.rows]
            self._on_batch(len(rows))
            try:
                found = iter(await loop.run_in_executor(self._thread, self._compute, rows))
            except Exception as error:  # noqa: BLE001 - goes to whoever waits
                for one in batch:
                    if not one.answers.done():
                        one.answers.set_exception(error)
                continue
            for one in batch:
                own = [next(found) for _ in one.rows]
                if not one.answers.done():
                    one.answers.set_result(own)

    async def _gather(self) -> list[_Waiting]:
        batch = [await self._queue.get()]
        with suppress(TimeoutError):
            async with asyncio.timeout_at(batch[0].since + self._max_wait):
                while sum(len(one.rows) for one in batch) < self._max_batch:
                    batch.append(await self._queue.get())
        self.waiting -= sum(len(one.rows) for one in batch)
        return batch
