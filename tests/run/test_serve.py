"""`mmft serve` without a socket: what requests are answered with, batches, limits and counts."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from needed_overrides import TWO_TASKS
from PIL import Image
from runs import Run, TrainRun

import mmft
from mmft.cli.main import main
from mmft.commands.demo import page_of
from mmft.commands.serve import application
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.run.serve.batching import Batcher
from mmft.run.serve.limits import BodyLimits, Refusal
from mmft.run.serve.metrics import Metrics
from mmft.run.serve.rows import Served, embeddings, rows_config

JSON = {"content-type": "application/json"}


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def image(width: int, height: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def rows(shapes: Any) -> list[dict[str, Any]]:
    """Rows of the sample with their images as bytes."""
    table = list(csv.DictReader(shapes.rows.open()))[:12]
    return [
        {"image": (shapes.rows.parent / row["image"]).read_bytes() if row["image"] else None, "text": row["text"]}
        for row in table
    ]


@pytest.fixture(scope="module")
def client(finished_run: Run) -> Iterator[TestClient]:
    typed = [f"run={finished_run.path}", "max_rows=12", "max_body_mb=0.5", "data.max_pixels=10_000", "max_batch=4"]
    with TestClient(application(compose("serve", typed)), raise_server_exceptions=False) as found:
        yield found


def sent(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"rows": [row | {"image": row["image"] and encoded(row["image"])} for row in rows]}


def predicted(client: TestClient, rows: list[Any]) -> list[dict[str, Any]]:
    response = client.post("/predict", json={"rows": rows})
    assert response.status_code == 200, response.text
    return list(response.json()["predictions"])


def test_predictions_are_those_of_the_model(client: TestClient, finished_run: Run, rows: list[dict[str, Any]]) -> None:
    expected = mmft.load(finished_run.path).predict(rows)
    answers = client.post("/predict", json=sent(rows)).json()["predictions"]
    assert [answer.keys() for answer in answers] == [one.keys() for one in expected]
    for answer, one in zip(answers, expected, strict=True):
        numbers = [name for name, value in one.items() if isinstance(value, float)]
        assert numbers
        assert {**answer, **dict.fromkeys(numbers)} == {**one, **dict.fromkeys(numbers)}
        np.testing.assert_allclose([answer[name] for name in numbers], [one[name] for name in numbers], atol=1e-5)


def test_embeddings_are_those_of_the_model(client: TestClient, finished_run: Run, rows: list[dict[str, Any]]) -> None:
    expected = mmft.load(finished_run.path).embed(rows[:3])
    answers = client.post("/embed", json={"rows": [*sent(rows[:3])["rows"], {"text": "red"}]}).json()["embeddings"]
    for name, values in expected.items():
        np.testing.assert_allclose([answer[name] for answer in answers[:3]], values, atol=1e-5)
    assert answers[3]["image"] is None
    assert answers[3]["error"] is None
    assert len(answers[3]["text"]) == expected["text"].shape[1]


def test_a_form_is_one_row(client: TestClient, rows: list[dict[str, Any]]) -> None:
    [expected] = client.post("/predict", json=sent(rows[:1])).json()["predictions"]
    form = {"data": {"text": rows[0]["text"]}, "files": {"image": ("a.png", rows[0]["image"])}}
    assert client.post("/predict", **form).json()["predictions"] == [expected]
    url = f"data:image/png;base64,{encoded(rows[0]['image'])}"
    assert (
        client.post("/predict", data={"text": rows[0]["text"], "image": url}, files={"text2": b""})
        .json()["predictions"][0]["error"]
        .startswith("no such column: text2. Did you mean text?")
    )
    twice = client.post("/predict", files=[("image", b"x"), ("image", b"y")])
    assert (twice.status_code, twice.json()["error"][:18]) == (422, "given twice: image")


def test_a_file_that_was_not_chosen_in_a_form_is_missing(client: TestClient) -> None:
    form = """--x
Content-Disposition: form-data; name="text"

red
--x
Content-Disposition: form-data; name="image"; filename=""
Content-Type: application/octet-stream


--x--
""".replace("\n", "\r\n").encode()
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answers = client.post("/predict", content=form, headers=headers).json()["predictions"]
    assert answers == predicted(client, [{"text": "red"}])
    cut = client.post("/predict", content=form[:-9], headers=headers)
    assert (cut.status_code, cut.json()) == (400, {"error": "the form is cut short"})


def test_a_bad_row_harms_no_other(client: TestClient, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    good = sent(rows[:1])["rows"][0]
    (tmp_path / "a.png").write_bytes(rows[0]["image"])
    bad = {
        "truncated": {"image": encoded(rows[0]["image"][:-60])},
        "not an image": {"image": encoded(b"hello" * 9)},
        "data.max_pixels=10000": {"image": encoded(image(101, 100))},
        "neither base64 nor": {"image": "zz!"},
        "paths and addresses are not opened": {"image": str(tmp_path / "a.png")},
        "and addresses are not": {"image": f"file://{tmp_path / 'a.png'}"},
        "a text in base64": {"image": {"path": str(tmp_path / "a.png")}},
        "no bytes": {"image": ""},
        "Did you mean text?": {"txt": "red"},
        "where a text is needed": {"text": {"a": 1}},
        "the row is empty": {},
    }
    alone = predicted(client, [good])[0]
    answers = predicted(client, [good, *bad.values()])
    assert [answer["row"] for answer in answers] == list(range(12))
    assert [answer["id"] for answer in answers] == [str(number) for number in range(12)]
    assert answers[0]["prediction"] == alone["prediction"]
    assert answers[0]["score"] == pytest.approx(alone["score"], abs=1e-5)
    for why, answer in zip(bad, answers[1:], strict=True):
        assert why in answer["error"]
        assert answer["prediction"] is None


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"rows": [', JSON, 400),
        (b"[" * 100_000, JSON, 400),
        (b'{"rows": [' + b"[]," * 200_000 + b"[]]}", JSON, 413),
        (b"\xff\xfe", JSON, 400),
        (b'{"rows": [{"text": NaN}]}', JSON, 400),
        (b'{"rows": [{"text": ' + b"1" * 5000 + b"}]}", JSON, 400),
        (b'{"rows": 5}', JSON, 422),
        (b'{"rows": [], "row": []}', JSON, 422),
        (b'{"rows": [' + b"{}," * 12 + b"{}]}", JSON, 413),
        (b'{"rows": ["' + b"x" * 500_000 + b'"]}', JSON, 413),
        (b"text", {"content-type": "text/plain"}, 415),
        (b"text", {}, 415),
        (b"--x\r\nbroken", {"content-type": "multipart/form-data; boundary=x"}, 400),
    ],
)
def test_a_request_that_is_none_is_refused(
    client: TestClient, body: bytes, headers: dict[str, str], status: int
) -> None:
    response = client.post("/predict", content=body, headers=headers)
    assert response.status_code == status
    assert list(response.json()) == ["error"]


def test_bodies_are_counted_whatever_is_declared(client: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000

    assert client.post("/predict", content=chunks(), headers=JSON).status_code == 413
    lied = client.post("/predict", content=b"{}", headers=JSON | {"content-length": str(2**30)})
    assert (lied.status_code, lied.json()) == (413, {"error": "the request is larger than max_body_mb=0.5"})


def test_texts_that_are_no_unicode_come_back_escaped(client: TestClient) -> None:
    answers = client.post("/predict", content=rb'{"rows": [{"\ud800": 1}, {"text": "\ud800"}]}', headers=JSON)
    assert "\ud800" in answers.json()["predictions"][0]["error"]
    assert answers.json()["predictions"][1]["error"] == "text: not valid Unicode text"


def test_other_paths_and_methods(client: TestClient) -> None:
    assert client.get("/predict").json() == {"error": "Method Not Allowed"}
    assert client.get("/docs").status_code == 404  # the page loads scripts from elsewhere
    described = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]["content"]
    row = described["application/json"]["schema"]["properties"]["rows"]["items"]
    assert set(row["properties"]) == {"image", "text"}


def test_health_and_metrics(finished_run: Run, rows: list[dict[str, Any]]) -> None:
    with TestClient(application(compose("serve", [f"run={finished_run.path}"]))) as client:
        about = client.get("/healthz").json()
        assert client.head("/healthz").status_code == 200
        assert about["ready"] is True
        assert about["model"] == "/".join(finished_run.path.parts[-2:])
        assert (about["task"], about["columns"]) == ("classification", ["image", "text"])
        client.post("/predict", json={"rows": [*sent(rows[:2])["rows"], {"image": "!"}]})
        client.post("/predict", content=b"{", headers=JSON)
        client.get("/somewhere")
        text = client.get("/metrics").text
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert samples['mmft_requests_total{route="/predict",status="200"}'] == "1"
    assert samples['mmft_requests_total{route="/predict",status="400"}'] == "1"
    assert samples['mmft_requests_total{route="other",status="404"}'] == "1"
    assert samples['mmft_rows_total{route="/predict",error="false"}'] == "2"
    assert samples['mmft_rows_total{route="/predict",error="true"}'] == "1"
    assert samples['mmft_batch_rows_bucket{route="/predict",le="1"}'] == "0"
    assert samples['mmft_batch_rows_bucket{route="/predict",le="2"}'] == "1"
    assert samples['mmft_batch_rows_sum{route="/predict"}'] == "2"
    assert samples['mmft_requests_in_progress{route="/predict"}'] == "0"
    assert samples['mmft_queue_rows{route="/predict"}'] == "0"
    assert samples['mmft_request_seconds_count{route="/predict"}'] == "2"
    assert all(re.fullmatch(r'[a-z_]+(\{(\w+="[^"\\]*",?)+\})?', name) for name in samples)


def test_buckets_hold_numbers_up_to_their_bounds() -> None:
    metrics = Metrics(dict)
    for rows in (4, 5, 1000):
        metrics.note_batch("/predict", rows)
    text = metrics.text()
    for bound, count in {"2": 0, "4": 1, "8": 2, "256": 2, "+Inf": 3}.items():
        assert f'le="{bound}"}} {count}\n' in text


def test_a_row_that_the_model_fails_on_fails_alone(
    client: TestClient, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it brings the whole batch down; the client is told nothing of the inside."""
    from mmft.data.table import Table

    prompts = Table.prompts

    def fails(self: Table, numbers: Any) -> Any:
        found = prompts(self, numbers)
        if "boom" in found:
            raise RuntimeError("inner secret")
        return found

    monkeypatch.setattr(Table, "prompts", fails)
    good, bad = sent(rows[:1])["rows"][0], {"text": "boom"}
    answers = predicted(client, [good, bad, good])
    assert [answer["error"] for answer in answers] == [None, "the row cannot be computed: an internal error", None]


def test_a_defect_of_ours_is_no_traceback(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("inner secret")

    monkeypatch.setattr(Served, "numbered", fails)
    response = client.post("/predict", json={"rows": [{"text": "red"}]})
    assert response.status_code == 500
    assert response.json() == {"error": "an internal error; the server's log has it"}


class TestBatcher:
    """Batches by time and number, of rows that say who sent them."""

    def run(self, work: Any, **options: Any) -> tuple[Any, list[int]]:
        """What `work(batcher)` returns, and the sizes of batches; the model doubles its rows, and 9 fails."""
        sizes: list[int] = []
        self.open, self.computing = threading.Event(), threading.Event()
        self.open.set()

        def compute(rows: Sequence[Any]) -> list[Any]:
            self.computing.set()
            self.open.wait()
            if 9 in rows:
                raise ValueError("nine")
            return [2 * row for row in rows]

        async def inner() -> Any:
            with ThreadPoolExecutor(1) as thread:
                given = {"max_batch": 4, "max_wait": 0.2, "max_queue": 100, "on_batch": sizes.append} | options
                batcher = Batcher(compute, thread, **given)
                running = asyncio.create_task(batcher.run())
                try:
                    return await work(batcher)
                finally:
                    self.open.set()
                    running.cancel()

        return asyncio.run(inner()), sizes

    def test_requests_are_merged_until_a_batch_is_full(self) -> None:
        async def work(batcher: Batcher) -> Any:
            return await asyncio.gather(*(batcher.answers(rows) for rows in ([1], [2, 3], [4], [5])))

        assert self.run(work) == ([[2], [4, 6], [8], [10]], [4, 1])

    def test_a_lone_request_waits_no_longer_than_asked(self) -> None:
        async def work(batcher: Batcher) -> Any:
            async with asyncio.timeout(30):
                return await batcher.answers([1])

        assert self.run(work, max_wait=0.0) == ([2], [1])

    def test_requests_that_do_not_merge_are_alone(self) -> None:
        async def work(batcher: Batcher) -> Any:
            return await asyncio.gather(*(batcher.answers(rows) for rows in ([1], [2, 3])))

        assert self.run(work, merges=False) == ([[2], [4, 6]], [1, 2])

    def test_a_full_queue_refuses(self) -> None:
        async def work(batcher: Batcher) -> Any:
            self.open.clear()
            first = asyncio.create_task(batcher.answers([1, 2, 3, 4]))
            while batcher.waiting or not first:
                await asyncio.sleep(0)
            await asyncio.to_thread(self.computing.wait)
            waiting = asyncio.create_task(batcher.answers([5, 6, 7, 8]))
            await asyncio.sleep(0)
            with pytest.raises(Refusal, match="4 rows are waiting, and at most 5 may") as refused:
                await batcher.answers([1, 2])
            assert refused.value.status == 503
            self.open.set()
            return await first + await waiting

        assert self.run(work, max_queue=5)[0] == [2, 4, 6, 8, 10, 12, 14, 16]

    def test_rows_nobody_waits_for_are_not_computed(self) -> None:
        async def work(batcher: Batcher) -> Any:
            self.open.clear()
            first = asyncio.create_task(batcher.answers([1, 2, 3, 4]))
            await asyncio.to_thread(self.computing.wait)
            gone = asyncio.create_task(batcher.answers([5, 5, 5]))
            other = asyncio.create_task(batcher.answers([6]))
            await asyncio.sleep(0)
            gone.cancel()
            self.open.set()
            return await first + await other

        assert self.run(work) == ([2, 4, 6, 8, 12], [4, 1])

    def test_an_error_goes_to_those_who_wait(self) -> None:
        async def work(batcher: Batcher) -> Any:
            failed = await asyncio.gather(batcher.answers([9]), batcher.answers([1]), return_exceptions=True)
            return [str(error) for error in failed], await batcher.answers([2])

        assert self.run(work, max_batch=2)[0] == (["nine", "nine"], [4])


def test_all_bodies_together_have_a_limit() -> None:
    """The second request is refused while the first is held, and taken afterwards."""

    async def app(scope: Any, receive: Any, _: Any) -> None:
        while (await receive())["more_body"]:
            pass
        await scope["done"].wait()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * 60, "more_body": False}

    async def work() -> None:
        limits, done = BodyLimits(app, limit=100, budget=100), asyncio.Event()
        scope = {"type": "http", "headers": [], "done": done}
        first = asyncio.create_task(limits(scope, receive, None))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        with pytest.raises(Refusal, match="max_pending_mb"):
            await limits(scope, receive, None)  # type: ignore[arg-type]
        assert limits.held == 60
        done.set()
        await first
        await limits(scope, receive, None)  # type: ignore[arg-type]
        assert limits.held == 0

    asyncio.run(work())


def test_a_body_that_stops_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmft.run.serve.limits._PATIENCE", 0.05)

    async def app(_: Any, receive: Any, __: Any) -> None:
        while (await receive())["more_body"]:
            pass

    async def receive() -> dict[str, Any]:
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": True}
        return dict(await asyncio.Future())

    parts = [b"a", b"b"]
    limits = BodyLimits(app, limit=100, budget=100)
    with pytest.raises(Refusal, match="no byte of the request came") as refused:
        asyncio.run(limits({"type": "http", "headers": []}, receive, None))  # type: ignore[arg-type]
    assert (refused.value.status, limits.held, parts) == (408, 0, [])


def test_columns_of_the_command_take_the_place_of_the_runs(finished_run: Run, rows: list[dict[str, Any]]) -> None:
    typed = ["data.columns.image=photo", "data.columns.text=[title,more]", "data.columns.id=number"]
    with TestClient(application(compose("serve", [f"run={finished_run.path}", *typed]))) as client:
        row = {"photo": encoded(rows[0]["image"]), "title": rows[0]["text"], "more": None, "number": 17}
        [answer] = predicted(client, [row])
        content = json.dumps({"rows": [row | {"number": "\ud800"}] * 2}).encode()
        twice = client.post("/predict", content=content, headers=JSON).json()["predictions"]
    [expected] = mmft.load(finished_run.path).predict(rows[:1])
    assert (answer["prediction"], answer["id"]) == (expected["prediction"], "17")
    assert answer["score"] == pytest.approx(expected["score"], abs=1e-5)
    assert [one["id"] for one in twice] == ["0", "1"]


def test_images_by_columns_of_paths_are_refused(finished_run: Run) -> None:
    with pytest.raises(UserError, match="no path of a client is opened. Type data.columns.image=image"):
        application(compose("serve", [f"run={finished_run.path}", "data.columns.image='{folder}/{name}.png'"]))


def test_zero_shot(pair_folder: Callable[[str], Path], rows: list[dict[str, Any]]) -> None:
    pair = pair_folder("clip")
    typed = [f"model.pair={pair}", "data.columns.image=image", "zero_shot.labels=[red,blue]"]
    with TestClient(application(compose("serve", typed))) as client:
        [answer] = predicted(client, [{"image": encoded(rows[0]["image"])}])
        [embedded] = client.post("/embed", json={"rows": [{"image": encoded(rows[0]["image"])}]}).json()["embeddings"]
    [expected] = mmft.load_pair(pair).zero_shot(["red", "blue"]).predict([{"image": rows[0]["image"]}])
    assert answer["prediction"] == expected["prediction"]
    assert answer["score"] == pytest.approx(expected["score"], abs=1e-5)
    assert embedded["image"] is not None


def test_search_finds_what_the_index_finds(
    finished_run: Run, pair_folder: Callable[[str], Path], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    model = mmft.load_pair(pair_folder("clip"), image="image", text="text")
    index = model.index(rows, tmp_path / "index")
    typed = [f"model.pair={pair_folder('clip')}", "data.columns.image=image", "data.columns.text=text"]
    with TestClient(application(compose("serve", [*typed, f"index={tmp_path / 'index'}", "top=2"]))) as client:
        asked = [
            {"text": "red"},
            {"image": "no base64!"},
            {"text": rows[0]["text"], "image": encoded(rows[0]["image"])},
        ]
        told = client.post("/search", json={"rows": asked}).json()["queries"]
        [alone] = client.post("/search", json={"rows": asked[:1]}).json()["queries"]
    expected = index.search("red", top=2)
    for one in (told[0], alone):
        assert [hit["row"] for hit in one["found"]] == [hit["row"] for hit in expected]
        assert [hit["score"] for hit in one["found"]] == pytest.approx([hit["score"] for hit in expected], abs=1e-5)
        assert one["found"][0]["image"] is None  # bytes of the table
    assert told[1]["error"].startswith("image: neither base64")
    assert told[2]["error"].startswith("it has an image and a text. Type find=image")
    with pytest.raises(UserError, match="was made by another model"):
        application(compose("serve", [f"run={finished_run.path}", f"index={tmp_path / 'index'}"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "typed",
    [
        ["task=multi_label"],
        ["task=question_answering"],
        ["task=matching", "data.columns.label=null"],
        ["task=contrastive", "model/fusion=dual", "data.columns.label=null"],
        ["task=contrastive", "task.texts=templates", "data.columns.text=null", "task.templates=photo"],
        ["task=regression", "data.columns.label=number"],
        [*TWO_TASKS],
    ],
)
def test_every_task_is_served_as_it_predicts(
    train_run: TrainRun, shapes: Any, tmp_path: Path, typed: list[str]
) -> None:
    """Its own demo page shows the same prediction."""
    frame = pd.read_csv(shapes.rows).reset_index(names="number")
    frame.to_csv(tmp_path / "rows.csv", index=False)
    task = "task=several" if "data.columns.label=[label,number]" in typed else typed[0]
    where = [f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.rows.parent}", "trainer.max_steps=2"]
    run = train_run(task, *where, *(one for one in typed if one != task))
    model = mmft.load(run.path)
    rows = [
        {"image": (shapes.rows.parent / image).read_bytes(), "text": text}
        for image, text in zip(frame["image"][:3], frame["text"][:3], strict=True)
    ]
    if "data.columns.text=null" in typed:  # its texts are captions of labels
        model, rows = model.zero_shot(model.labels), [{"image": row["image"]} for row in rows]
    served = embeddings(model, rows_config(model.saved.config.data, 1))
    assert served.answers([served.reader.made_up()])[0]["error"] is None  # the row that a server begins with
    expected = model.predict(rows)
    with TestClient(application(compose("serve", [f"run={run.path}"]))) as client:
        answers = predicted(client, sent(rows)["rows"])
        embedded = client.post("/embed", json=sent(rows)).json()["embeddings"]
    for answer, one in zip(answers, expected, strict=True):
        assert answer.keys() == one.keys()
        for name, value in one.items():
            assert answer[name] == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else value)
    assert [one["error"] for one in embedded] == [None] * 3
    page = page_of(compose("demo", [f"run={run.path}", "examples=2"]), tmp_path)
    example = page._examples[0]
    shown = page.answer(str(example.image), *example.texts)
    assert shown[3] is not None
    page.blocks()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["max_rows=600"], "max_queue: 512 is less than max_rows=600"),
        (["max_body_mb=300"], "max_pending_mb: 256.0 is less than max_body_mb=300"),
        (["port=70000"], "port: 70000 is out of bounds"),
        (["data.path=rows.csv"], "data.path: no such key"),
        (["host=nowhere.invalid"], "host=nowhere.invalid port=8000: "),
        (["task.num_beams=2"], "the run has task=classification, which writes no texts"),
    ],
)
def test_what_cannot_be_served_is_told(
    finished_run: Run, capsys: pytest.CaptureFixture[str], typed: list[str], said: str
) -> None:
    port = [] if typed[0].startswith(("port", "host")) else ["port=0"]
    assert main(["serve", f"run={finished_run.path}", *port, *typed]) == 2
    assert said in capsys.readouterr().err


def test_a_port_that_is_taken_is_told(finished_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", f"run={finished_run.path}", f"port={port}"]) == 2
    assert f"host=127.0.0.1 port={port}: Address already in use. Type another" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "package"), [("serve", "uvicorn"), ("demo", "gradio")])
def test_without_the_extra_it_is_named(
    finished_run: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    package: str,
) -> None:
    monkeypatch.setattr("mmft.run.early.find_spec", lambda name: None if name == package else object())
    assert main([command, f"run={finished_run.path}"]) == 2
    assert f"mmft {command} needs {package}. Type: pip install 'mmft[{command}]'" in capsys.readouterr().err


def test_json_of_numbers_that_are_not_finite() -> None:
    from mmft.run.serve.rows import plain

    assert json.dumps(plain(np.array([1.5, float("nan")])), allow_nan=False) == "[1.5, null]"
    assert plain(float("inf")) is None
