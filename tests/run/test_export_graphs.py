"""Graphs that leave mmft compute what `predict` writes: every task and fusion, any number of rows, any length."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from make_shapes import captions
from mostly_slow import mostly_slow
from PIL import Image
from runs import TrainRun
from small_fusions import FUSIONS, moved, small
from tiny_open_clip import KINDS, make_open_clip
from tiny_pairs import FAMILIES, MAX_LENGTH
from transformers import AutoTokenizer

from mmft import build
from mmft.commands.export import export
from mmft.config.compose import compose
from mmft.config.schema.root import TrainConfig
from mmft.data.splitting.splits import load_splits
from mmft.errors import UserError
from mmft.run.export import compared, graph_folder
from mmft.run.export.graph_folder import check_has_graph, write_graphs
from mmft.run.loaded_model import LoadedModel
from mmft.run.saved_model import SavedModel
from mmft.tasks.part_columns import part_column

slow = pytest.mark.slow
Arrays = dict[str, npt.NDArray[Any]]
SIZES = ((1, 4), (64, 4), (3, 17), (2, 30), (1, 64), (64, 64))
"""Rows of a batch, and tokens of its longest text."""


@pytest.fixture(scope="session")
def rows_csv(shapes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shapes sample with a column for every task."""
    out = tmp_path_factory.mktemp("rows") / "rows.csv"
    with shapes.rows.open(newline="") as given, out.open("w", newline="") as file:
        read = csv.DictReader(given)
        write = csv.DictWriter(file, [*(read.fieldnames or ()), "number", "tags"])
        write.writeheader()
        for at, row in enumerate(read):
            image = str(shapes.folder / row["image"])
            tags = row["label"].replace(" ", "|")
            write.writerow({**row, "image": image, "number": 900 + 37 * (at % 11), "tags": tags})
    return out


TASKS = {
    "classification": [],
    "multi_label": ["data.columns.label=tags"],
    "regression": ["data.columns.label=number"],
    "question_answering": ["data.columns.label=tags"],
    "several": ["data.columns.label=[label,number]", "task.tasks={label:classification,number:regression}"],
    "matching": ["data.columns.label=null"],
    "contrastive": ["data.columns.label=null", "model/fusion=dual"],
}


@pytest.fixture
def saved(shapes: Any, rows_csv: Path) -> Callable[..., SavedModel]:
    """`saved("task=regression", ...)`: a model as after some training, without any."""

    def make(task: str, *more: str) -> SavedModel:
        of_pair = any(one.startswith("model.pair=") for one in more)
        encoders = shapes.of_rows if of_pair else [*shapes.overrides, "model.text_encoder.max_length=64"]
        own = [one for one in TASKS[task] if not (of_pair and one.startswith("model/fusion"))]
        typed = [*encoders, f"data.path={rows_csv}", "data.limit=48", f"task={task}", *own, *more]
        config: TrainConfig = compose("train", typed).config
        build.choose_for_pair(config, Path.cwd())
        splits = load_splits(config.data, config.seed)
        fitted = build.build_task(config.task)
        fitted.fit(splits["train"].table.labels(splits["train"].rows))
        model = build.build_model(config.model, fitted.make_head, config.seed)
        methods = build.apply_tuning(config, model)
        for part in (model.fusion, model.head, model.missing_image, model.missing_text):
            moved(part)
        return SavedModel(model.eval(), fitted, config, Path.cwd(), methods, frozenset())

    return make


def rows_of(saved: SavedModel, count: int, longest: int) -> list[dict[str, Any]]:
    """Random images, and texts of at most `longest` tokens; some rows lack either if the task allows it."""
    random, words = np.random.default_rng(count), " ".join(captions()).split()
    lacks = not saved.task.facts.needs_both
    tokenizer = saved.model.text_encoder.tokenizer
    texts = [" ".join(random.choice(words, longest)) for _ in range(count)]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    room = longest - tokenizer.num_special_tokens_to_add()
    rows = []
    for row in range(count):
        image = Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        text = tokenizer.decode(ids[row][: max(1, room - 3 * (row % 5))])
        while len(tokenizer(text)["input_ids"]) > longest:  # what is decoded need not be read as the same tokens
            text = text[:-1]
        rows.append(
            {
                "image": None if lacks and row % 5 == 1 else image,
                "text": None if lacks and row % 5 == 3 else text,
            }
        )
    return rows


def inputs_of(folder: Path, rows: list[dict[str, Any]], shortest: int = 8) -> Arrays:
    """What a graph is given of rows, made without mmft, by inference.json and the tokenizer in the folder.

    Texts are padded to the longest of them, and to `shortest` tokens.
    """
    described = json.loads((folder / "inference.json").read_text())
    side, tokenizer = described["image"]["side"], AutoTokenizer.from_pretrained(folder)
    images = [np.zeros((side, side, 3), np.uint8) if row["image"] is None else row["image"] for row in rows]
    texts = [row["text"] or "" for row in rows]
    longest = described["text"]["max_length"]
    ids = [one[:longest] for one in tokenizer(texts, truncation=True, max_length=longest)["input_ids"]]
    length = max(shortest, *map(len, ids), described["text"]["shortest"])
    tokens = tokenizer.pad({"input_ids": ids}, padding="max_length", max_length=length)
    return {
        "pixel_values": np.stack(images).transpose(0, 3, 1, 2),
        "input_ids": np.array(tokens["input_ids"]),
        "attention_mask": np.array(tokens["attention_mask"]),
        "image_present": np.array([row["image"] is not None for row in rows]),
        "text_present": np.array([row["text"] is not None for row in rows]),
    }


def computed(folder: Path, given: Arrays) -> Arrays:
    """What the graphs of a folder compute, by output."""
    found: Arrays = {}
    for file in sorted(folder.glob("*.onnx")):
        session = onnxruntime.InferenceSession(file)
        wanted = {one.name: given[one.name] for one in session.get_inputs()}
        found |= dict(zip([one.name for one in session.get_outputs()], session.run(None, wanted), strict=True))
    for file in sorted(folder.glob("*.pt2")):
        described = json.loads((folder / "inference.json").read_text())["graphs"][file.name]
        wanted = {name: torch.from_numpy(given[name]) for name in described["inputs"]}
        results = torch.export.load(file).module()(**wanted)
        found |= {name: value.detach().numpy() for name, value in zip(described["outputs"], results, strict=True)}
    return found


def check_predictions(saved: SavedModel, predicted: list[dict[str, Any]], found: Arrays) -> None:
    """Every column that `predict` writes, from the outputs of the graphs."""
    task = saved.task
    if task.facts.pairwise:
        cosine = (found["image_embedding"] * found["text_embedding"]).sum(1)
        assert np.allclose(cosine, [row["prediction"] for row in predicted], atol=1e-5)
        return
    for name, own in task.parts.items():
        scores, prediction = (found.get(part_column(kind, name)) for kind in ("scores", "prediction"))
        assert prediction is not None
        labels = own.output_names
        told = [row[part_column("prediction", name)] for row in predicted]
        kind = own.facts.type
        if kind == "regression":
            assert np.allclose(prediction[:, 0], told, atol=1e-2)  # of numbers around 1,000
        elif kind == "matching":
            assert np.allclose(scores, [row["score"] for row in predicted], atol=1e-5)
            assert ["match" if one else "no match" for one in prediction] == told
        elif kind == "question_answering":
            assert [labels[one] for one in prediction[:, 0]] == told
            assert [labels[one] for one in prediction[:, 1]] == [row["prediction_2"] for row in predicted]
            assert scores is not None
            best = np.take_along_axis(scores, prediction, 1)
            assert np.allclose(best[:, :2], [[row["score"], row["score_2"]] for row in predicted], atol=1e-5)
        else:
            columns = [part_column(f"score_{label}", name) for label in labels]
            assert np.allclose(scores, [[row[column] for column in columns] for row in predicted], atol=1e-5)
            if kind == "classification":
                assert [labels[one] for one in prediction] == told
            else:
                chosen = ["|".join(np.array(labels)[one]) for one in prediction]
                assert chosen == [row.replace(own.separator, "|") for row in told]  # type: ignore[attr-defined]


def check_graphs(
    saved: SavedModel, folder: Path, written: str = "onnx", sizes: Sequence[tuple[int, int]] = SIZES
) -> None:
    """Writes the graphs, and compares them with `predict`."""
    folder.mkdir()
    check_has_graph(saved, written)
    loaded = LoadedModel(saved, "cpu")
    rows = {size: rows_of(saved, *size) for size in sizes}
    predicted = {size: loaded.predict(given) for size, given in rows.items()}
    write_graphs(saved, {}, folder, written, None)
    for size, given in rows.items():
        inputs = inputs_of(folder, given, shortest=size[1])
        assert inputs["input_ids"].shape == size
        check_predictions(saved, predicted[size], computed(folder, inputs))


def fusions_of_tasks() -> list[Any]:
    """Every task with a fusion of its own, and the fusions that are left with classification."""
    left = [fusion for fusion in FUSIONS if fusion != "cross"]
    quick = {"classification": "cross", "contrastive": "dual"}
    pairs = [(task, quick.get(task) or left.pop()) for task in TASKS]
    pairs += [("classification", fusion) for fusion in left]
    return [pytest.param(*one, marks=() if one in quick.items() else slow) for one in pairs]


@pytest.mark.parametrize(("task", "fusion"), fusions_of_tasks())
def test_every_task_and_fusion(task: str, fusion: str, saved: Any, tmp_path: Path) -> None:
    check_graphs(saved(task, f"model/fusion={fusion}", *small(fusion)), tmp_path / "out")


@pytest.fixture
def pair(pair_folder: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """`pair("open_clip/siglip")`: a tiny pretrained pair, one of `PAIRS`."""

    def folder(kind: str) -> Path:
        library, _, own = kind.rpartition("/")
        return make_open_clip(tmp_path / "pair", captions(), own) if library else pair_folder(own)

    return folder


NOT_IN_ONNX = "mt5"  # its attention reshapes what the exporter to ONNX takes for a view
PAIRS = [*FAMILIES, *(f"open_clip/{kind}" for kind in KINDS if kind != NOT_IN_ONNX)]
OF_PAIRS = ((1, 4), (64, 4), (3, 17), (64, MAX_LENGTH))


@pytest.mark.parametrize("kind", mostly_slow(PAIRS, "siglip"))
def test_every_pair(kind: str, pair: Callable[[str], Path], saved: Any, tmp_path: Path) -> None:
    check_graphs(saved("contrastive", f"model.pair={pair(kind)}"), tmp_path / "out", sizes=OF_PAIRS)


@slow
def test_a_pair_that_onnx_does_not_hold(pair: Callable[[str], Path], saved: Any, tmp_path: Path) -> None:
    of_pair = saved("contrastive", f"model.pair={pair(f'open_clip/{NOT_IN_ONNX}')}")
    with pytest.raises(UserError, match="format=onnx has no place for an operation of this run"):
        check_graphs(of_pair, tmp_path / "out")


@slow
@pytest.mark.parametrize("task", ["classification", "contrastive"])
def test_a_program_of_torch_export(task: str, saved: Any, tmp_path: Path) -> None:
    check_graphs(saved(task), tmp_path / "out", written="torch_export")
    assert not [*(tmp_path / "out").glob("*.onnx")]


def test_a_program_of_images_alone(saved: Any, tmp_path: Path) -> None:
    """Its rows have fewer tokens than any text."""
    write_graphs(saved("classification", "data.columns.text=null"), {}, tmp_path, "torch_export", None)
    assert (tmp_path / "model.pt2").is_file()


@slow
@pytest.mark.parametrize("method", ["lora", "lora_8bit", "adapters"])
def test_what_tuning_added(method: str, saved: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = saved("classification", f"tune={method}")
    for name, parameter in model.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    bits = method == "lora_8bit"
    if bits:  # predict computes in 8 bits, the graph does not
        (tmp_path / "out").mkdir()
        write_graphs(model, {}, tmp_path / "out", "onnx", None)
    else:
        check_graphs(model, tmp_path / "out")
    assert ("computes with 8-bit weights" in caplog.text) == bits


@slow
def test_int8(saved: Any, tmp_path: Path) -> None:
    model = saved("classification")
    check_graphs(model, tmp_path / "float32")
    (tmp_path / "int8").mkdir()
    write_graphs(model, {}, tmp_path / "int8", "onnx", "int8")
    sizes = [(tmp_path / name / "model.onnx").stat().st_size for name in ("int8", "float32")]
    assert sizes[0] < 0.75 * sizes[1]  # a quarter of the weights; tiny ones are half of the file
    given = inputs_of(tmp_path / "int8", rows_of(model, 64, 16))
    eight, full = (computed(tmp_path / name, given)["scores"] for name in ("int8", "float32"))
    assert 1e-6 < np.abs(eight - full).max() < 0.1
    assert json.loads((tmp_path / "int8" / "inference.json").read_text())["quantize"] == "int8"


def check_card(
    model: SavedModel, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """Runs the lines of a folder's README.md on images of any shape, one transparent in parts, one of 16 bits."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (8, 12, 4), dtype=np.uint8))
    smooth = coarse.resize((60, 40), Image.Resampling.BILINEAR)
    deep = Image.fromarray(np.asarray(smooth.convert("L")).astype(np.uint16) * 200)
    rows = [{"image": image, "text": "a red bird"} for image in (smooth, deep)]
    expected = LoadedModel(model, "cpu").predict(rows)
    card = write_graphs(model, {}, folder, "onnx", None)
    monkeypatch.chdir(folder)
    lines = card.partition("```python\n")[2].partition("```")[0]
    for row, predicted in zip(rows, expected, strict=True):
        row["image"].save(folder / "image.png")
        found: dict[str, Any] = {}
        exec(lines, found)
        close = 0.02  # a pixel may differ by one
        if model.task.facts.pairwise:
            assert float(capsys.readouterr().out) == pytest.approx(predicted["prediction"], abs=close)
        else:
            scores = [predicted[f"score_{label}"] for label in model.task.output_names]
            assert np.allclose(found["model"][0][0], scores, atol=close)
    return card


@pytest.mark.slow
@pytest.mark.parametrize("lacks", ["image", "text"])
def test_the_cards_lines_of_a_run_of_one_modality(
    lacks: str, saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    card = check_card(saved("classification", f"data.columns.{lacks}=null"), folder, monkeypatch, capsys)
    assert f"The run read no {lacks}s" in card
    assert not json.loads((folder / "inference.json").read_text())[lacks]["read"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "typed"),
    [
        ("classification", ["data.resize=squash", "data.crop_pct=0.8"]),
        ("classification", ["data.resize=pad"]),
        ("contrastive", ["data.resize=crop"]),
        ("classification", ["data.resize=crop", "data.crop_pct=0.75"]),
    ],
)
def test_the_cards_own_lines(
    task: str, typed: list[str], saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    check_card(saved(task, *typed, "data.background=black"), tmp_path, monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip", "chinese_clip", "open_clip/siglip"])
def test_the_cards_lines_of_a_pair(
    kind: str, pair: Callable[[str], Path], saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "out").mkdir()
    check_card(saved("contrastive", f"model.pair={pair(kind)}"), tmp_path / "out", monkeypatch, capsys)


@pytest.mark.slow
def test_other_values_are_refused(saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved("classification")
    honest = graph_folder.graphs_of

    def wrong(*given: Any) -> Any:
        model.model.missing_image.vector.data += 0.01
        return honest(*given)

    monkeypatch.setattr(graph_folder, "graphs_of", wrong)
    with pytest.raises(UserError, match=r"computes other values than the run's model \(the largest difference is \d"):
        write_graphs(model, {}, tmp_path, "torch_export", None)


def test_made_rows_alone_are_told(saved: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = saved("regression")
    with_test = compared.compared_rows(model)
    model.config.data.path = str(Path("gone.csv"))
    alone = compared.compared_rows(model)
    assert len(with_test) == len(alone) + 1
    assert "on made rows alone" in caplog.text
    assert {len(batch) for batch in alone} == {1, 3, 16}
    present = [torch.stack([batch.image_present, batch.text_present]).all(1) for batch in alone]
    assert not torch.stack(present).all()
    both = compared.compared_rows(saved("matching"))
    assert all(bool(batch.image_present.all() and batch.text_present.all()) for batch in both)


def test_test_rows_that_lack_something_are_left_out_where_nothing_is_predicted_of_them(
    saved: Any, rows_csv: Path, tmp_path: Path
) -> None:
    model = saved("matching")
    lines = rows_csv.read_text().splitlines()
    table = [line.split(",") for line in lines]
    at = lines[0].split(",").index("image")
    gaps = [",".join([*row[:at], "", *row[at + 1 :]]) if n % 2 else ",".join(row) for n, row in enumerate(table)]
    (tmp_path / "gaps.csv").write_text("\n".join(gaps))
    whole = compared.compared_rows(model)[-1]
    model.config.data.path = str(tmp_path / "gaps.csv")
    left = compared.compared_rows(model)[-1]
    assert 0 < len(left) < len(whole)
    assert bool(left.image_present.all())


def test_a_model_that_writes_texts_is_refused(saved: Any) -> None:
    model = saved("classification")
    model.task.facts = type("Writes", (model.task.facts,), {"generates": True})
    with pytest.raises(UserError, match="token by token. Type format=hf"):
        check_has_graph(model, "onnx")


def test_without_the_packages(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else True)
    with pytest.raises(UserError, match=r"needs onnxruntime. Type pip install 'mmft\[onnx\]'"):
        check_has_graph(saved("classification"), "onnx")
    check_has_graph(saved("classification"), "torch_export")


def test_int8_is_of_onnx_alone() -> None:
    with pytest.raises(UserError, match="quantize=int8"):
        compose("export", ["run=last", "format=torch_export", "quantize=int8"])


@slow
def test_as_it_is_typed(train_run: TrainRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_run("task.calibration=temperature")
    assert export(compose("export", [f"run={run.path}", "format=onnx"])) == 0
    captured = capsys.readouterr()
    out = Path(captured.out.splitlines()[-1])
    assert {file.name for file in out.iterdir()} >= {"README.md", "inference.json", "model.onnx", "tokenizer.json"}
    assert "as the run's model on " in captured.err
    assert str(run.path) not in (out / "README.md").read_text() + (out / "inference.json").read_text()
