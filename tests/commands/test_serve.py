"""`mmft serve` as a process: many clients at once, some of them hostile, clients that go away, and a stop."""

from __future__ import annotations

import base64
import csv
import io
import random
import signal
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image
from runs import Run
from servers import Start

import mmft

pytestmark = pytest.mark.slow
CLIENTS, REQUESTS = 20, 10


def sent(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"image": row["image"] and base64.b64encode(row["image"]).decode()}


def bomb() -> bytes:
    """A small file of 400 million pixels."""
    stream = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(stream, "PNG")
    return stream.getvalue()


def test_hostile_clients_harm_no_other(server: Start, finished_run: Run, shapes: Any) -> None:
    table = list(csv.DictReader(shapes.rows.open()))
    rows = [{"image": (shapes.rows.parent / row["image"]).read_bytes(), "text": row["text"]} for row in table[:60]]
    expected = mmft.load(finished_run.path).predict(rows)
    running = server("serve", "max_body_mb=1", "max_pending_mb=40", "data.max_pixels=1_000_000", "max_queue=1000")
    before, huge = running.peak_memory, base64.b64encode(bomb()).decode()
    answered: list[int] = []
    bodies: list[str] = []

    def good(client: httpx.Client, draw: random.Random) -> None:
        numbers = draw.choices(range(len(rows)), k=draw.randint(1, 8))
        response = client.post("/predict", json={"rows": [sent(rows[number]) for number in numbers]})
        for number, answer in zip(numbers, response.json()["predictions"], strict=True):
            assert answer["error"] is None
            assert answer["prediction"] == expected[number]["prediction"]
            assert answer["score"] == pytest.approx(expected[number]["score"], abs=1e-5)
            answered.append(number)

    def bad_image(client: httpx.Client, image: str) -> None:
        response = client.post("/predict", json={"rows": [{"image": image}, sent(rows[0])]})
        first, second = response.json()["predictions"]
        assert first["error"] is not None
        assert second["prediction"] == expected[0]["prediction"]
        bodies.append(response.text)

    def hostile(client: httpx.Client, kind: int) -> None:
        headers = {"content-type": "application/json"}
        if kind == 0:
            bad_image(client, base64.b64encode(rows[0]["image"][:-60]).decode())
        elif kind == 1:
            bad_image(client, huge)
        elif kind == 2:
            response = client.post("/predict", content=b'{"rows": [{"text"', headers=headers)
            assert response.status_code == 400
            bodies.append(response.text)
        else:
            head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            answer = running.send_raw(head + b"Content-Length: 1000000000\r\n\r\n" + b"x" * 100)
            assert answer.startswith(b"HTTP/1.1 413 ")
            bodies.append(answer.decode())

    failures: list[BaseException] = []

    def work(seed: int) -> None:
        draw = random.Random(seed)
        when = draw.randrange(REQUESTS)
        try:
            with httpx.Client(base_url=running.url, timeout=300) as client:
                for number in range(REQUESTS):
                    if number == when:
                        hostile(client, seed % 4)
                    else:
                        good(client, draw)
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    assert not failures, failures
    assert len(bodies) == CLIENTS
    assert not [body for body in bodies if "Traceback" in body or ".py" in body]
    assert running.peak_memory - before < 300e6  # a bomb alone would take 400 MB, as RGB 1.2 GB
    metrics = httpx.get(f"{running.url}/metrics").text
    assert f'mmft_requests_total{{route="/predict",status="200"}} {CLIENTS * (REQUESTS - 1) + 10}' in metrics
    batches = float(next(line for line in metrics.splitlines() if "batch_rows_count" in line).split()[-1])
    assert batches < CLIENTS * (REQUESTS - 1)  # requests were computed together
    assert "Traceback" not in running.said


def test_a_client_that_goes_away_is_dropped(server: Start) -> None:
    running = server("serve", "max_wait_ms=3_600_000", "max_batch=3")
    waits = b'{"rows": [{"text": "red"}]}'
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    where = urlsplit(running.url)
    with socket.create_connection((where.hostname, where.port)) as connection:
        connection.sendall(head % len(waits) + waits)
        running.wait_for('mmft_queue_rows{route="/predict"} 1')
    running.wait_for('mmft_requests_total{route="/predict",status="499"} 1')
    answers = httpx.post(f"{running.url}/predict", json={"rows": [{"text": "blue"}] * 3}, timeout=120).json()
    assert [answer["error"] for answer in answers["predictions"]] == [None] * 3
    assert 'mmft_batch_rows_sum{route="/predict"} 3' in httpx.get(f"{running.url}/metrics").text


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_answers_what_has_arrived(server: Start, number: int, code: int) -> None:
    running = server("serve", "max_wait_ms=3000", "max_batch=1000")
    found: list[httpx.Response] = []
    ask = threading.Thread(
        target=lambda: found.append(httpx.post(f"{running.url}/predict", json={"rows": [{"text": "red"}]}, timeout=120))
    )
    ask.start()
    running.wait_for('mmft_queue_rows{route="/predict"} 1')
    assert running.stop(number) == code
    ask.join(60)
    assert found[0].json()["predictions"][0]["error"] is None
    assert running.said.count(f"Stopped by {signal.Signals(number).name}") == 1
    assert "Traceback" not in running.said
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{running.url}/healthz")
