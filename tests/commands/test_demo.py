"""`mmft demo` as a process: its page, and a stop while it is open."""

from __future__ import annotations

import signal
import threading

import httpx
import pytest
from servers import Start

pytestmark = pytest.mark.slow


def test_a_stop_does_not_wait_for_open_pages(server: Start) -> None:
    """An open page holds a connection until it is closed."""
    running = server("demo", "examples=2", "marks=marks.jsonl")
    assert "mmft: " in httpx.get(running.url).text
    is_open, is_cut = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with httpx.stream("GET", f"{running.url}/gradio_api/heartbeat/page", timeout=300) as response:
                for _ in response.iter_bytes():
                    is_open.set()
        except httpx.HTTPError:
            pass
        is_cut.set()

    threading.Thread(target=hold).start()
    assert is_open.wait(60)
    assert running.stop(signal.SIGTERM) == 143
    assert is_cut.wait(60)
    assert "Stopped by SIGTERM" in running.said
    assert "Traceback" not in running.said
