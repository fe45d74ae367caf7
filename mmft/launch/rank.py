"""`python -m mmft.launch.rank`: one rank of a run, started by `supervisor`, with its job on stdin."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

from mmft.launch.messages import outcome_of
from mmft.launch.rank_job import unpacked
from mmft.ranks import HEARTBEAT_FD


def main() -> int:
    """Trains, reports the outcome to the supervisor, and returns the exit code."""
    job = json.load(sys.stdin)
    end_with_parent()

    def work() -> int:
        composed, folder = unpacked(job)
        from mmft.commands.train import train

        return train(composed, folder)

    return _tell(*outcome_of(work))


def _tell(code: int, messages: list[str]) -> int:
    try:
        os.write(int(os.environ[HEARTBEAT_FD]), json.dumps({"code": int(code), "messages": messages}).encode())
    except (OSError, KeyError):
        print(*messages, sep="\n", file=sys.stderr)
    return int(code)


def end_with_parent() -> None:
    """Ends this rank, workers included, if its supervisor is killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Threads of a process group without its peers would block an ordinary exit.
    os._exit(code)
