"""`/metrics`: counts and histograms in the text format of Prometheus."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
Labels = tuple[tuple[str, str], ...]


class _Histogram:
    """Numbers by bucket, each the numbers of at most its bound and above the one before."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: Labels) -> Iterator[str]:
        total = 0
        for bound, count in zip((*(f"{bound:g}" for bound in self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield _line(f"{name}_bucket", (*labels, ("le", bound)), total)
        yield _line(f"{name}_sum", labels, self._sum)
        yield _line(f"{name}_count", labels, total)


def _line(name: str, labels: Labels, value: float) -> str:
    inner = ",".join(f'{key}="{text}"' for key, text in labels)
    return f"{name}{{{inner}}} {value:.12g}" if inner else f"{name} {value:.12g}"


class Metrics:
    """What a server counts. Used in the event loop's thread alone.

    Args:
        queue: gives the number of rows that wait, by route.
    """

    def __init__(self, queue: Callable[[], Mapping[str, int]]) -> None:
        self._queue = queue
        self._requests: Counter[Labels] = Counter()
        self._in_progress: Counter[Labels] = Counter()
        self._rows: Counter[Labels] = Counter()
        self._seconds: defaultdict[Labels, _Histogram] = defaultdict(lambda: _Histogram(_SECONDS))
        self._batches: defaultdict[Labels, _Histogram] = defaultdict(lambda: _Histogram(_ROWS))

    def note_start(self, route: str) -> None:
        """Counts a request as in progress, until `note_request`."""
        self._in_progress[(("route", route),)] += 1

    def note_request(self, route: str, status: int, seconds: float) -> None:
        """Counts an answered request."""
        self._in_progress[(("route", route),)] -= 1
        self._requests[("route", route), ("status", str(status))] += 1
        self._seconds[(("route", route),)].observe(seconds)

    def note_batch(self, route: str, rows: int) -> None:
        """Counts a batch that is computed."""
        self._batches[(("route", route),)].observe(rows)

    def note_rows(self, route: str, rows: int, errors: int) -> None:
        """Counts the rows of an answer, and those of them with an error."""
        self._rows[("route", route), ("error", "false")] += rows - errors
        self._rows[("route", route), ("error", "true")] += errors

    def text(self) -> str:
        """All of it, one sample per line."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield from _head("mmft_requests_total", "counter", "Requests by route and status; 499: the client went away.")
        yield from (_line("mmft_requests_total", labels, count) for labels, count in self._requests.items())
        yield from _head("mmft_requests_in_progress", "gauge", "Requests that are not yet answered.")
        yield from (_line("mmft_requests_in_progress", labels, count) for labels, count in self._in_progress.items())
        yield from _head("mmft_rows_total", "counter", "Rows that were answered.")
        yield from (_line("mmft_rows_total", labels, count) for labels, count in self._rows.items())
        yield from _head("mmft_queue_rows", "gauge", "Rows that wait for the model.")
        yield from (_line("mmft_queue_rows", (("route", route),), rows) for route, rows in self._queue().items())
        for name, found, text in (
            ("mmft_request_seconds", self._seconds, "Time from a request's headers to the end of its answer."),
            ("mmft_batch_rows", self._batches, "Rows that were computed at once."),
        ):
            yield from _head(name, "histogram", text)
            for labels, histogram in found.items():
                yield from histogram.lines(name, labels)


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


class Measured:
    """ASGI middleware that notes route, status and time of each request.

    Args:
        app: the application.
        metrics: where they are noted.
        routes: paths with a name of their own; all others are `other`, whatever clients ask for.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: tuple[str, ...]) -> None:
        self._app, self._metrics, self._routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500
        route = scope["path"] if scope["path"] in self._routes else "other"
        self._metrics.note_start(route)

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            self._metrics.note_request(route, status, time.perf_counter() - start)
