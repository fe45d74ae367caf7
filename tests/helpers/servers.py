"""`mmft serve` and `mmft demo` as processes."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from runs import Run


class Server:
    """A command that listens, in a process of its own.

    Attributes:
        url: where it listens.
        process: the command.
    """

    def __init__(self, command: str, run: Run, folder: Path, *typed: str) -> None:
        self._err = folder / "stderr.txt"
        with self._err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mmft", command, f"run={run.path}", "port=0", *typed],
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
            )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://127.0.0.1:"), self.said

    @property
    def said(self) -> str:
        return self._err.read_text()

    @property
    def peak_memory(self) -> int:
        """Bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    def wait_for(self, sample: str) -> None:
        """Until /metrics has this line."""
        for _ in range(600):
            if f"{sample}\n" in httpx.get(f"{self.url}/metrics").text:
                return
            time.sleep(0.1)
        pytest.fail(f"no {sample}")

    def send_raw(self, content: bytes) -> bytes:
        """The first bytes of the answer."""
        where = urlsplit(self.url)
        with socket.create_connection((where.hostname, where.port), timeout=120) as connection:
            connection.sendall(content)
            return connection.recv(4096)

    def stop(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(120)


Start = Callable[..., Server]


@pytest.fixture
def server(finished_run: Run, tmp_path: Path) -> Iterator[Start]:
    """`server("serve", "max_batch=3")`: starts the command on the finished run; it is killed at the end."""
    started: list[Server] = []

    def start(command: str, *typed: str) -> Server:
        started.append(Server(command, finished_run, tmp_path, *typed))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait(60)
