"""`tools/bench/peers`: what is judged, counted and measured, and the command on small rows and encoders."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from make_shapes import captions, make_rows
from peers import judge, lines, measure, page, rows
from peers.setting import SETTINGS, environment_of, requirements, script
from tiny_encoders import make_image_encoder, make_text_encoder

RUN = Path(__file__).parents[1] / "tools" / "bench" / "peers" / "run.py"


def write(path: Path, header: str, *of_rows: str) -> Path:
    path.write_text("\n".join([header, *of_rows]) + "\n")
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "test.csv", "id,label", "a,cat", "b,dog", "c,dog", "d,cat")


def test_accuracy_goes_by_id(table: Path, tmp_path: Path) -> None:
    answers = write(tmp_path / "answers.csv", "id,prediction", "d,cat", "c,cat", "b,dog", "a,cat")
    assert judge.accuracy(table, answers) == 0.75


def test_answers_to_other_rows_are_refused(table: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not have the rows"):
        judge.accuracy(table, write(tmp_path / "answers.csv", "id,prediction", "a,cat", "b,dog"))


def test_mean_recall_is_that_of_a_search_written_out(tmp_path: Path) -> None:
    count = 40
    titles = write(tmp_path / "test.csv", "id,title", *(f"{n},t" for n in range(count)))
    drawn = np.random.default_rng(0)
    image = drawn.normal(size=(count, 8))
    text = image + drawn.normal(size=(count, 8))
    np.savez(tmp_path / "embeddings.npz", image=3 * image, text=text)
    found = []
    for queries, results in ((image, text), (text, image)):
        for top in (1, 5, 10):
            hits = 0
            for number, query in enumerate(queries):
                score = [query @ other / np.linalg.norm(query) / np.linalg.norm(other) for other in results]
                hits += number in np.argsort(score)[::-1][:top]
            found.append(hits / count)
    assert 0.1 < np.mean(found) < 0.95
    assert judge.mean_recall(titles, tmp_path / "embeddings.npz") == pytest.approx(np.mean(found))


def test_embeddings_that_are_all_equal_find_nothing(tmp_path: Path) -> None:
    titles = write(tmp_path / "test.csv", "id", *map(str, range(20)))
    np.savez(tmp_path / "embeddings.npz", image=np.ones((20, 4)), text=np.ones((20, 4)))
    assert judge.mean_recall(titles, tmp_path / "embeddings.npz") == 0


def test_lines_are_those_with_code(tmp_path: Path) -> None:
    python = write(
        tmp_path / "a.py", '"""Doc.\n\nMore."""', "# remark", "", "x = f(", "    1,  # one", ")", "y = '''a", "b'''"
    )
    assert lines.count(python) == 5
    assert lines.count(write(tmp_path / "a.sh", "# remark", "mmft train \\", "    a=1", "")) == 2


def test_cost_is_that_of_all_processes(tmp_path: Path) -> None:
    burn = "import time; x = bytearray(b'1') * 300_000_000; began = time.process_time()\n"
    burn += "while time.process_time() - began < 1.5: pass"
    parent = f"import subprocess, sys; print('printed', flush=True); subprocess.run([sys.executable, '-c', {burn!r}])"
    cost = measure.run([sys.executable, "-c", parent], {}, tmp_path / "log", tmp_path)
    assert cost.exit_code == 0
    assert 1.5 < cost.cpu_seconds < 20
    assert 300e6 < cost.peak_memory_bytes < 1e9
    assert (tmp_path / "log").read_text() == "printed\n"
    assert measure.run([sys.executable, "-c", "import sys; sys.exit(7)"], {}, tmp_path / "log", tmp_path).exit_code == 7


def test_a_file_with_two_names_is_on_the_disk_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(bytes(1000))
    (tmp_path / "b").hardlink_to(tmp_path / "in" / "a")
    (tmp_path / "c").write_bytes(bytes(10))
    assert measure.size(tmp_path) == 1010


def test_rows_are_the_same_share_of_each_split(tmp_path: Path) -> None:
    manifest = write(
        tmp_path / "manifest.csv",
        "id,image,title,label,split,more",
        *(
            f"{n},i/{n}.png,title {n // 2 if n < 20 else n},x,{('train', 'val', 'train', 'test')[n % 4]},m"
            for n in range(80)
        ),
    )
    folder = rows.write_rows(manifest, tmp_path / "all", distinct=False, limit=20)
    counts = {split: list(csv.DictReader((folder / f"{split}.csv").open())) for split in rows.SPLITS}
    assert {split: len(found) for split, found in counts.items()} == {"train": 20, "val": 10, "test": 10}
    assert counts["val"][1]["image"] == str(tmp_path / "i/9.png")
    folder = rows.write_rows(manifest, tmp_path / "distinct", distinct=True, limit=None)
    titles = [row["title"] for split in rows.SPLITS for row in csv.DictReader((folder / f"{split}.csv").open())]
    assert len(titles) == len(set(titles)) == 60


def test_every_peer_of_a_setting_has_a_script_and_an_environment() -> None:
    for name, setting in SETTINGS.items():
        for peer in setting.peers:
            assert script(name, peer).stem == f"{name}_{environment_of(peer)}"
            assert requirements(environment_of(peer)).read_text()


def figures(setting: str, peer: str, seed: int, **changes: object) -> dict[str, object]:
    made = {"setting": setting, "peer": peer, "seed": seed, "epochs": 2, "train_rows": 1690, "test_rows": 490}
    made |= {"quality": 0.7, "wall_seconds": 100.0, "cpu_seconds": 90.0, "peak_memory_bytes": 2**30}
    made |= {"model_bytes": 10**8, "written_bytes": 3 * 10**8, "lines": 40, "versions": {"torch": "2.0"}}
    made |= {"machine": {"processor": "P", "cores": 2, "memory_bytes": 1}, "load_before": 0.1, "load_after": 1.2}
    return {**made, "lanes": 1, "date": "2026-11-28", **changes}


def test_tables_are_made_of_what_was_measured(tmp_path: Path) -> None:
    kept = [
        figures("full", "mmft", 0),
        figures("full", "mmft", 1, quality=0.8, cpu_seconds=110.0),
        figures("full", "trainer", 0, quality=0.65, cpu_seconds=150.0, versions={"torch": "2.1"}),
    ]
    for number, one in enumerate(kept):
        (tmp_path / f"{number}.json").write_text(json.dumps(one))
    text = page.tables(tmp_path)
    assert "| mmft | 0.750 ± 0.071, 2 seeds | 100 s | 1.00 | 100 s | 1,024 MiB | 100 MB | 300 MB | 40 |" in text
    assert "| transformers' Trainer | 0.650 | 150 s | 1.50 | 100 s |" in text
    assert "load was 0.1 to 1.2" in text
    assert "| mmft | torch 2.0 |" in text
    assert "| transformers' Trainer | torch 2.1 |" in text
    assert "AutoGluon" not in text

    document = write(tmp_path / "page.md", f"before\n{page.BEGIN}\nold\n{page.END}", "after")
    page.write(document, text)
    assert document.read_text() == f"before\n{page.BEGIN}\n\n{text}\n\n{page.END}\nafter\n"
    with pytest.raises(ValueError, match="lacks the lines"):
        page.write(write(tmp_path / "other.md", "no marker"), text)


def small_shared(folder: Path) -> Path:
    """The folder of rows and encoders in small, its texts distinct."""
    table = make_rows(folder / "data/clipart", rows=48)
    with table.open(newline="") as file:
        found = list(csv.DictReader(file))
    with (table.parent / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "image", "title", "label", "split"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, "title": f"{row['text']} {number}"} for number, row in enumerate(found))
    make_image_encoder(folder / "encoders/dinov2-small-timm")
    make_image_encoder(folder / "encoders/dinov2-small", kind="hf_dinov2")
    make_text_encoder(folder / "encoders/minilm-l6", captions())
    return folder


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_command_measures_each_peer_of_this_environment_once(tmp_path: Path) -> None:
    """All but AutoGluon, which has an environment of its own."""
    shared, document = small_shared(tmp_path / "shared"), tmp_path / "page.md"
    write(document, page.BEGIN, page.END)
    peers = ["loop", "trainer", "sentence_transformers", "open_clip", "mmft"]
    command = [sys.executable, str(RUN), "--shared", str(shared), "--out", str(tmp_path / "out"), "--here"]
    command += ["--epochs", "1", "--page", str(document), "--peers", *peers]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + logs(tmp_path / "out/results")
    expected = {(name, peer) for name, one in SETTINGS.items() for peer in one.peers if environment_of(peer) in peers}
    results = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out/results").glob("*.json")}
    assert {(one["setting"], one["peer"]) for one in results.values()} == expected
    for one in results.values():
        assert 0 <= one["quality"] <= 1
        assert one["cpu_seconds"] > 1
        assert one["peak_memory_bytes"] > 2e8
        assert 1000 < one["model_bytes"] <= one["written_bytes"]
        assert f"{one['cpu_seconds']:,.0f} s |" in document.read_text()
        assert one["lines"] == lines.count(script(one["setting"], one["peer"]))
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout.strip() == page.tables(tmp_path / "out/results").strip()  # no line of a peer that is run
    assert {path.name: json.loads(path.read_text()) for path in (tmp_path / "out/results").glob("*.json")} == results


def logs(results: Path) -> str:
    """The ends of what the peers printed."""
    return "\n".join(f"{path.name}:\n{path.read_text()[-2000:]}" for path in results.glob("*.log"))
