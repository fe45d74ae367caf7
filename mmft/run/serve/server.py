"""Listens on an address and runs an application until a signal stops it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import Any

import uvicorn

from mmft.errors import UserError


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; connections wait until the application runs.

    Raises:
        UserError: there is no such address here, or the port is taken or not allowed.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        why = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise UserError(
            f"host={host} port={port}: {why}. Type another port=PORT (0 for any free one), or host=HOST"
        ) from None


def url_of(listening: socket.socket) -> str:
    """Where a browser finds what listens."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def run_until_stopped(app: Any, listening: socket.socket, grace: int) -> None:
    """Runs an ASGI application. After SIGTERM or Ctrl-C nothing new is accepted, and what has arrived is answered.

    Args:
        app: the application.
        listening: its socket.
        grace: seconds that requests have to end after a signal.

    Raises:
        Stopped: by that signal, from the handler of `mmft.signals`.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=grace,
    )
    logging.getLogger("uvicorn.error").addFilter(_is_no_cancellation)
    uvicorn.Server(config).run([listening])


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """False for the traceback of a connection that was cut because `grace` was over, which is no defect."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)
