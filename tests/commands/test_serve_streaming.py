"""`mmft serve` streams texts: server-sent events, as they come over a socket too."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from generative_rows import typed_for_generation
from make_shapes import Shapes
from runs import Run
from servers import Server

from mmft.commands.serve import application
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.config.schema.data import ColumnsConfig, DataConfig
from mmft.run.serve.limits import Refusal
from mmft.run.serve.rows import RowReader, Served
from mmft.run.serve.streaming import Streams

Events = list[dict[str, Any]]
DATA = DataConfig(columns=ColumnsConfig(text="text"))
SERVED = Served(RowReader(DATA.columns), ["row", "id", "prediction", "score", "error"], DATA, lambda *_: iter(()))
LONG = {"pattern": "'[a-z]{30,}'", "max_new_tokens": 40, "stop": "[ee]"}
"""What keeps a model from ending an answer at once."""


@pytest.fixture(scope="module")
def run(shapes: Shapes, language_model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("streamed") / "run"
    typed = [*typed_for_generation(shapes, language_model_folder("qwen3", chat=True)), "tune/text_encoder=lora"]
    assert train(compose("train", typed), path) == 0
    return Run(path)


@pytest.fixture(scope="module")
def given(shapes: Shapes) -> list[dict[str, Any]]:
    """Four rows with images as bytes."""
    table = pd.read_csv(shapes.rows).dropna(subset=["image", "text"]).head(4)
    return [{"image": (shapes.rows.parent / row.image).read_bytes(), "text": row.text} for row in table.itertuples()]


def sent(row: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"rows": [row | {"image": b64encode(row["image"]).decode()}], "stream": True, **more}


def events(lines: Iterator[str]) -> Events:
    found = [line for line in lines if line]
    assert all(line.startswith("data: ") for line in found)
    return [json.loads(line.removeprefix("data: ")) for line in found]


def streamed(client: httpx.Client, row: dict[str, Any], path: str = "/predict") -> Events:
    with client.stream("POST", path, json=sent(row), timeout=120) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return events(response.iter_lines())


@pytest.mark.parametrize("decoding", [{}, LONG, {"temperature": 1.0, "max_new_tokens": 7}, {"num_beams": 2}])
def test_pieces_are_what_predict_writes(run: Run, given: list[dict[str, Any]], decoding: dict[str, Any]) -> None:
    """Four streams at a time, with a batch between them."""
    typed = [f"run={run.path}", *(f"task.{name}={value}" for name, value in decoding.items())]
    with TestClient(application(compose("serve", typed))) as client, ThreadPoolExecutor(5) as clients:
        streams = [clients.submit(streamed, client, row) for row in given]
        rows = [sent(row)["rows"][0] for row in given]
        batch = clients.submit(client.post, "/predict", json={"rows": rows})
        alone = [client.post("/predict", json={"rows": [row]}).json()["predictions"][0] for row in rows]
        for stream, expected in zip(streams, alone, strict=True):
            *pieces, last = stream.result()
            assert "".join(one["piece"] for one in pieces) == expected["prediction"]
            assert last == {"predictions": [expected | {"score": None}]}
        if "temperature" not in decoding:  # where it depends on the number of a row
            assert batch.result().json()["predictions"][1]["prediction"] == alone[1]["prediction"]
        counted = client.get("/metrics").text
    assert 'mmft_rows_total{route="/predict",error="false"} 12\n' in counted
    if decoding is LONG:
        assert max(len(stream.result()) for stream in streams) > 2  # pieces, not the whole at once


def test_a_row_that_cannot_be_read_ends_with_its_error(run: Run, given: list[dict[str, Any]]) -> None:
    with TestClient(application(compose("serve", [f"run={run.path}"]))) as client:
        cut = given[0] | {"image": given[0]["image"][:40]}
        [expected] = client.post("/predict", json={"rows": sent(cut)["rows"]}).json()["predictions"]
        assert expected["error"]
        assert streamed(client, cut) == [{"predictions": [expected]}]
        [only] = streamed(client, given[0] | {"txet": "red"})
        assert only["predictions"][0]["error"].startswith("no such column: txet. Did you mean text?")


def test_what_cannot_be_streamed_is_refused(run: Run, finished_run: Run, given: list[dict[str, Any]]) -> None:
    def refused(client: TestClient, path: str, content: dict[str, Any]) -> str:
        response = client.post(path, json=content)
        assert response.status_code == 422
        return str(response.json()["error"])

    two = sent(given[0]) | {"rows": [sent(row)["rows"][0] for row in given[:2]]}
    with TestClient(application(compose("serve", [f"run={run.path}"]))) as client:
        assert "one row at a time, not 2" in refused(client, "/predict", two)
        assert "/embed has nothing to write" in refused(client, "/embed", sent(given[0]))
        assert "true or false" in refused(client, "/predict", sent(given[0]) | {"stream": 1})
        assert "streams: a request has" in refused(client, "/predict", sent(given[0], streams=True))
        schema = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]["content"]
        assert "stream" in schema["application/json"]["schema"]["properties"]
    with TestClient(application(compose("serve", [f"run={finished_run.path}"]))) as client:
        assert "/predict has nothing to write" in refused(client, "/predict", sent(given[0]))
    typed = [f"run={run.path}", "task.choices=[red disc,blue cross]"]
    with TestClient(application(compose("serve", typed))) as client:
        assert "/predict has nothing to write" in refused(client, "/predict", sent(given[0]))


def test_so_many_are_written_at_a_time_and_one_that_is_given_up_makes_room() -> None:
    answers: list[dict[str, Any]] = []

    async def go() -> None:
        with ThreadPoolExecutor(1) as thread:
            streams = Streams(lambda row: iter([row["text"], " and ", "more"]), SERVED, thread, 1, answers.append)
            first = streams.events({"text": "red"})
            assert json.loads((await anext(first)).removeprefix(b"data: ")) == {"piece": "red"}
            with pytest.raises(Refusal, match="1 answers are being streamed, and at most 1 may"):
                streams.check_free()
            await first.aclose()
            streams.check_free()
            assert not answers
            assert len([event async for event in streams.events({"text": "red"})]) == 4
            assert answers == [{"row": 0, "id": "0", "prediction": "red and more", "score": None, "error": None}]

    asyncio.run(go())


def test_a_defect_is_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    def fails(_: Any) -> Iterator[str]:
        yield "re"
        raise ZeroDivisionError

    async def go() -> list[bytes]:
        with ThreadPoolExecutor(1) as thread:
            return [event async for event in Streams(fails, SERVED, thread, 1, print).events({"text": "red"})]

    first, last = asyncio.run(go())
    assert json.loads(first.removeprefix(b"data: ")) == {"piece": "re"}
    assert json.loads(last.removeprefix(b"data: "))["predictions"][0]["error"].endswith("an internal error")
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.slow
def test_over_a_socket(run: Run, given: list[dict[str, Any]], tmp_path: Path) -> None:
    """A client that goes away after the first piece is no request in progress, and harms no other."""
    server = Server("serve", run, tmp_path, *(f"task.{name}={value}" for name, value in LONG.items()))
    try:
        with httpx.stream("POST", f"{server.url}/predict", json=sent(given[0]), timeout=120) as first:
            assert next(first.iter_lines()).startswith('data: {"piece": ')
        server.wait_for('mmft_requests_in_progress{route="/predict"} 0')
        with httpx.Client(base_url=server.url) as client:
            assert "predictions" in streamed(client, given[1])[-1]
        assert "Traceback" not in server.said
    finally:
        server.process.kill()
        server.process.wait(60)
