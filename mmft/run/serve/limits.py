"""Limits on requests: the size of each and of all together, and how long one may take to arrive."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PATIENCE = 30.0  # seconds without any byte of a body


class Refusal(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        why: a sentence for the client.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class BodyLimits:
    """ASGI middleware that counts bodies as they arrive, whatever their headers say.

    Whoever reads a body gets a `Refusal`: 413 if it is too large, 503 if too much is held already, 408 if it stops.

    Args:
        app: the application.
        limit: largest body in bytes.
        budget: largest sum of the bodies whose requests are not yet answered, in bytes.
    """

    def __init__(self, app: ASGIApp, limit: int, budget: int) -> None:
        self._app, self._limit, self._budget = app, limit, budget
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = int(dict(scope["headers"]).get(b"content-length", 0))
        size, is_arriving = 0, True

        async def counted() -> Message:
            nonlocal size, is_arriving
            if declared > self._limit:
                raise self._too_large()
            if not is_arriving:
                return await receive()
            try:
                async with asyncio.timeout(_PATIENCE):
                    message = await receive()
            except TimeoutError:
                raise Refusal(408, f"no byte of the request came for {_PATIENCE:.0f} seconds") from None
            more = len(message.get("body", b""))
            is_arriving = message.get("more_body", False)
            size += more
            self.held += more
            if size > self._limit:
                raise self._too_large()
            if self.held > self._budget:
                raise Refusal(503, "other requests take all of max_pending_mb. Try again later")
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self.held -= size

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the request is larger than max_body_mb={self._limit / 1e6:g}")
