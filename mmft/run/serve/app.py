"""The application: `/predict`, `/embed`, `/search`, `/healthz`, `/metrics`; `/openapi.json` describes them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mmft import __version__
from mmft.config.schema.serving import ServingConfig
from mmft.config.wording import listed
from mmft.run.serve.batching import Batcher
from mmft.run.serve.limits import BodyLimits, Refusal
from mmft.run.serve.metrics import Measured, Metrics
from mmft.run.serve.rows import Answer, Row, Served, UnreadableRow, to_json
from mmft.run.serve.streaming import Pieces, Streams

_GONE = 499  # nginx's status of a client that did not wait
_MOST_BRACKETS = 200_000  # in a request: millions of empty lists would take seconds and a gigabyte to parse


class Json(JSONResponse):
    """An answer in JSON."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return to_json(content)


class Given(NamedTuple):
    """The rows of a request, as sent, and whether their answer is streamed."""

    rows: list[Any]
    stream: bool = False


class Route:
    """One thing that is computed of rows, at one path.

    Args:
        path: of the URL.
        key: of the answers in a response.
        served: what is computed.
        batcher: computes it.
        metrics: counts rows.
        max_rows: largest number of rows of a request.

    Attributes:
        streams: writes answers piece by piece; None where there are no texts to write.
    """

    def __init__(self, path: str, key: str, served: Served, batcher: Batcher, metrics: Metrics, max_rows: int) -> None:
        self.path, self.served, self.batcher = path, served, batcher
        self._key, self._metrics, self._max_rows = key, metrics, max_rows
        self.streams: Streams | None = None

    async def respond(self, request: Request) -> Response:
        """Answers a request; every row has a prediction or an error of its own."""
        given, stream = await _given(request)
        if stream:
            return self._streamed(given)
        if len(given) > self._max_rows:
            raise Refusal(
                413, f"{len(given)} rows are more than max_rows={self._max_rows}. Send them in several requests"
            )
        rows: dict[int, Row] = {}
        answers: dict[int, Answer] = {}
        for number, one in enumerate(given):
            try:
                rows[number] = self.served.reader.row(one)
            except UnreadableRow as error:
                answers[number] = self.served.unreadable(str(error))
        found = await _unless_gone(request, self.batcher.answers(list(rows.values())))
        answers |= zip(rows, found, strict=True)
        numbered = self.served.numbered([answers[number] for number in range(len(given))], given)
        self.note(*numbered)
        return Json({self._key: numbered})

    def note(self, *answers: Answer) -> None:
        """Counts answered rows."""
        self._metrics.note_rows(self.path, len(answers), sum(one["error"] is not None for one in answers))

    def _streamed(self, given: list[Any]) -> Response:
        """The answer to a single row as events."""
        if self.streams is None:
            raise Refusal(422, f'"stream": {self.path} has nothing to write piece by piece here. Leave it out')
        if len(given) != 1:
            raise Refusal(422, f'"stream": one row at a time, not {len(given)}')
        self.streams.check_free()
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # proxies must not hold pieces back
        return StreamingResponse(self.streams.events(given[0]), media_type="text/event-stream", headers=headers)

    def schema(self) -> dict[str, Any]:
        """The request's body for OpenAPI."""
        reader = self.served.reader
        texts: dict[str, Any] = {name: {} for name in reader.names if name != reader.image}
        encoded = {"type": ["string", "null"], "description": "base64, or a data: URL"}
        binary = {"type": "string", "format": "binary"}
        row = {"type": "object", "properties": texts | ({reader.image: encoded} if reader.image else {})}
        form = {"type": "object", "properties": texts | ({reader.image: binary} if reader.image else {})}
        known: dict[str, Any] = {"rows": {"type": "array", "items": row}}
        known |= {"stream": {"type": "boolean"}} if self.streams else {}
        rows = {"type": "object", "required": ["rows"], "properties": known}
        content = {"application/json": {"schema": rows}, "multipart/form-data": {"schema": form}}
        return {"requestBody": {"required": True, "content": content}}


def create_app(
    served: Mapping[str, Served], config: ServingConfig, about: Mapping[str, Any], pieces: Pieces | None = None
) -> FastAPI:
    """The application.

    Args:
        served: by the key of the answers, `predictions`, `embeddings` or `queries`.
        config: the limits.
        about: what `/healthz` says of the model.
        pieces: writes a prediction piece by piece, if it is a text.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="model")
    routes: list[Route] = []
    metrics = Metrics(lambda: {route.path: route.batcher.waiting for route in routes})
    for key, one in served.items():
        path = {"predictions": "/predict", "embeddings": "/embed", "queries": "/search"}[key]
        batcher = Batcher(
            one.answers,
            thread,
            max_batch=config.max_batch,
            max_wait=config.max_wait_ms / 1000,
            max_queue=config.max_queue,
            merges=one.merges,
            on_batch=lambda rows, path=path: metrics.note_batch(path, rows),  # type: ignore[misc]
        )
        routes.append(route := Route(path, key, one, batcher, metrics, config.max_rows))
        if key == "predictions" and pieces is not None:
            route.streams = Streams(pieces, one, thread, config.max_batch, route.note)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(route.batcher.run()) for route in routes]
        yield
        for task in tasks:
            task.cancel()
        thread.shutdown()

    # FastAPI's pages of documentation load scripts from elsewhere.
    app = FastAPI(title="mmft serve", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    for route in routes:
        app.post(route.path, openapi_extra=route.schema())(_handler(route))

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        """Whether requests are answered, and by which model."""
        return {"ready": True, **about}

    @app.get("/metrics")
    async def counted() -> PlainTextResponse:
        """Counts for Prometheus."""
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")

    limit, budget = round(config.max_body_mb * 1e6), round(config.max_pending_mb * 1e6)
    app.add_middleware(BodyLimits, limit=limit, budget=budget)
    paths = (*(route.path for route in routes), "/healthz", "/metrics")
    app.add_middleware(Measured, metrics=metrics, routes=paths)
    _tell_errors(app)
    return app


def _tell_errors(app: FastAPI) -> None:
    """Whatever goes wrong is answered with a sentence in JSON."""
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _not_allowed)
    app.add_exception_handler(ClientDisconnect, lambda *_: Response(status_code=_GONE))
    app.add_exception_handler(Exception, lambda *_: _error(500, "an internal error; the server's log has it"))


def _handler(route: Route) -> Any:
    async def handle(request: Request) -> Response:
        return await route.respond(request)

    handle.__name__ = route.path.strip("/")
    return handle


def _error(status: int, why: str) -> Response:
    headers = {"Retry-After": "1"} if status == 503 else None
    return Json({"error": why}, status, headers)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _error(error.status, str(error))


async def _not_allowed(_: Request, error: Exception) -> Response:
    """An unknown path, a wrong method, or a broken form."""
    assert isinstance(error, HTTPException)
    return Json({"error": str(error.detail)}, error.status_code, error.headers)


async def _unless_gone(request: Request, work: Any) -> Any:
    """The result of `work`, which is cancelled if the client goes away.

    Raises:
        ClientDisconnect: it has gone away.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _given(request: Request) -> Given:
    """The rows of a request.

    Raises:
        Refusal: its form is not one that is understood.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return _given_as_json(await request.body())
    if kind == "multipart/form-data":
        return Given([await _row_of_form(request)])
    raise Refusal(415, "Content-Type must be application/json or multipart/form-data")


def _given_as_json(body: bytes) -> Given:
    if body.count(b"[") + body.count(b"{") > _MOST_BRACKETS:
        raise Refusal(413, f"the request has more than {_MOST_BRACKETS:,} brackets and braces")
    try:
        content = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        why = str(error)[:200] if isinstance(error, json.JSONDecodeError) else "it cannot be read"
        raise Refusal(400, f"the request is not valid JSON: {why}") from None
    rows = content.get("rows") if isinstance(content, dict) else None
    if isinstance(rows, list) and (others := content.keys() - {"rows", "stream"}):
        raise Refusal(422, f'{listed(sorted(others))}: a request has "rows", and "stream", and nothing else')
    if not isinstance(rows, list):
        raise Refusal(422, 'an object with a list of rows is needed: {"rows": [{...}, ...]}')
    stream = content.get("stream", False)
    if not isinstance(stream, bool):
        raise Refusal(422, '"stream" is true or false')
    return Given(rows, stream)


def _no_number(text: str) -> float:
    raise ValueError(text)


async def _row_of_form(request: Request) -> dict[str, Any]:
    """One row; a file that was not chosen is missing.

    Raises:
        Refusal: it has no end, or a column occurs twice.
    """
    if not (await request.body()).rstrip().endswith(b"--"):  # the parser would leave out a part without an end
        raise Refusal(400, "the form is cut short")
    row: dict[str, Any] = {}
    async with request.form() as form:
        twice = sorted({name for name, _ in form.multi_items() if len(form.getlist(name)) > 1})
        if twice:
            raise Refusal(422, f"given twice: {listed(twice)}. A form is one row; JSON takes several")
        for name, value in form.items():
            if not isinstance(value, UploadFile):
                row[name] = value
            elif value.filename or value.size:
                row[name] = await value.read()
    return row
