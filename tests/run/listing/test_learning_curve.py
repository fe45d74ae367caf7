"""The learning curve of a sweep: its points, its fit, and what it says about more rows."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmft.launch.sweep.sweep import _report
from mmft.run.listing.learning_curve import Curve, Point, learning_curves
from mmft.run.listing.sweep import Sweep
from mmft.tasks.metrics.names import lower_is_better

Job = Callable[..., None]
SIZES = [100, 200, 400, 800]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """`job(rows, value, *overrides)` writes one job of a sweep."""

    def write(rows: int, value: float, *typed: str, status: str = "completed") -> None:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "overrides.yaml").write_text(yaml.safe_dump(["task=classification", *typed]))
        summary: dict[str, Any] = {"status": status, "monitor": "val/accuracy", "rows": {"train": rows, "val": 9}}
        summary |= {"optimizer_steps": rows // 10, "val": {"accuracy": value + 0.1}, "test": {"accuracy": value}}
        (folder / "summary.json").write_text(json.dumps(summary))

    return write


def power(rows: float) -> float:
    return 1 - 2 * rows**-0.4


def curve(law: Callable[[float], float], noise: float = 0.0, seeds: int = 3, metric: str = "test/accuracy") -> Curve:
    rng = random.Random(0)
    points = [Point(rows, [law(rows) + rng.gauss(0, noise) for _ in range(seeds)]) for rows in SIZES]
    return Curve(metric, points, {}, lower_is_better(metric))


def test_a_power_law_is_found_and_told() -> None:
    found = curve(power, noise=0.001)
    assert found.fit is not None
    assert found.fit.slope == pytest.approx(-0.4, abs=0.02)
    assert found.fitted(1600) == pytest.approx(power(1600), abs=0.003)
    said = found.forecast()
    gain = 100 * (power(1600) - power(800))
    assert said.startswith("More rows would help: if the curve goes on, 1,600 instead of 800 give about +")
    assert float(said.split("about +")[1].split()[0]) == pytest.approx(gain, abs=0.3)
    assert f"from {power(800):.2f}" in said
    assert float(said.split("instead of 400 gave +")[1].split()[0]) == pytest.approx(
        100 * (power(800) - power(400)), abs=0.3
    )
    assert "fit: 1 - test/accuracy = " in found.text()


def test_a_loss_falls() -> None:
    found = curve(lambda rows: 5 * rows**-0.3, noise=0.002, metric="test/loss")
    said = found.forecast()
    assert said.startswith("More rows would help")
    change = 5 * (1600**-0.3 - 800**-0.3)
    assert float(said.split("about ")[1].split(",")[0]) == pytest.approx(change, rel=0.1)
    assert "fit: test/loss = " in found.text()


def test_what_reaches_its_best_is_fitted_itself() -> None:
    found = curve(lambda rows: 1.0 if rows == 800 else power(rows))
    assert found.fit is not None
    assert not found.fit.of_error
    assert "* log(rows)" in found.text()


def test_a_flat_curve_and_a_noisy_one_are_called_so() -> None:
    assert curve(lambda _: 0.7, noise=0.002).forecast().startswith("The curve is flat: 1,600 rows instead of 800")
    assert curve(lambda rows: 0.9 - rows / 1e4, noise=0.002).forecast().startswith("The curve is flat")
    noisy = curve(power, noise=0.2).forecast()
    assert noisy.startswith("The noise is too large to say")
    assert "More seeds tell more" in noisy
    two = [Point(10, [1.0]), Point(20, [0.5])]
    assert "sweep over 3 numbers of rows" in Curve("test/loss", two, {}, True).forecast()


def test_one_curve_per_setting_over_completed_runs(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method, better in (("random", 0.0), ("k_center", 0.02)):
        for share, rows in ((0.1, 100), (0.2, 200), (1, 1000)):
            for seed in range(2):
                typed = [f"data/subset={method}", f"data.subset.fraction={share}", f"seed={seed}"]
                job(rows + seed, power(rows) + better + 0.01 * seed, *typed)
    job(500, 0.1, "data/subset=random", "data.subset.fraction=0.5", "seed=0", status="failed")
    random_rows, k_center = learning_curves(Sweep(tmp_path))
    assert random_rows.setting == {"data/subset": "random"}
    assert [point.rows for point in k_center.points] == [100, 200, 1000]
    assert k_center.points[0].values == pytest.approx([power(100) + 0.02, power(100) + 0.03])
    _report(tmp_path)
    out = capsys.readouterr().out
    assert out.index("is the best") < out.index("learning curve (data/subset=random)")
    assert f"\n 100     2  {power(100) + 0.005:.4f} +/- 0.0071" in out
    assert "fewer optimizer steps (10 to 100), which" in out
    assert "trainer.max_steps=100." in out
    lines = list(csv.DictReader((tmp_path / "learning_curve.csv").open()))
    assert [line["data/subset"] for line in lines] == ["random"] * 3 + ["k_center"] * 3
    assert float(lines[2]["mean"]) == pytest.approx(power(1000) + 0.005)
    assert lines[2].keys() == {"data/subset", "rows", "runs", "metric", "mean", "deviation", "fit"}


def test_other_sweeps_have_none(job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for rate in ("1e-3", "1e-4"):
        job(100, 0.5, "data.subset.rows=100", f"optim.lr={rate}")
    assert learning_curves(Sweep(tmp_path)) == []
    _report(tmp_path)
    assert "learning curve" not in capsys.readouterr().out
    assert not (tmp_path / "learning_curve.csv").exists()


def test_sizes_that_come_to_as_many_rows_are_one_point(job: Job, tmp_path: Path) -> None:
    for share in (0.001, 0.002, 0.5):
        job(6 if share < 0.1 else 100, share, f"data.subset.fraction={share}")
    [one] = learning_curves(Sweep(tmp_path))
    assert one.points == [Point(6, [0.001, 0.002], 0), Point(100, [0.5], 10)]


def test_a_curve_that_flattens_is_no_line() -> None:
    """Twice as many rows gave half a point, and nothing."""
    values = {100: [0.50, 0.52], 200: [0.60, 0.61], 400: [0.62, 0.63], 800: [0.625, 0.63], 1600: [0.624, 0.632]}
    curve = Curve("test/accuracy", [Point(rows, found) for rows, found in values.items()], {}, lower=False)
    assert curve.forecast().startswith(
        "The curve flattens: 3,200 rows instead of 1,600 would give +0.1 points if it went on"
    )
    assert "by the 95 % interval of the fit of the last two sizes, 800 and 1,600" in curve.forecast()
    assert [record["fit"] for record in curve.records()][:3] == [None] * 3
    alone = Curve("test/accuracy", [Point(rows, found[:1]) for rows, found in values.items()], {}, lower=False)
    assert alone.fit is not None
    assert alone.fitted(100) is not None  # two runs determine a line, and say nothing of its noise


@pytest.mark.parametrize(
    ("steps", "stops_early", "said"),
    [
        ((20, 30, 40), False, "fewer optimizer steps (20 to 40), which makes the curve steeper. For as many, type"),
        ((40, 30, 20), False, "more optimizer steps (40 to 20), which makes the curve flatter."),
        (
            (20, 40, 20),
            False,
            "Not all numbers of rows were trained for as many optimizer steps (20 to 40). For as many",
        ),
        ((15, 18, 20), True, "trainer.max_steps=20, and leave callbacks.early_stopping out."),
        ((20, 20, 20), True, ""),
    ],
)
def test_other_numbers_of_steps_are_told(steps: tuple[int, ...], stops_early: bool, said: str) -> None:
    points = [
        Point(rows, [value], step) for rows, value, step in zip((20, 60, 180), (0.25, 0.4, 0.5), steps, strict=True)
    ]
    text = Curve("test/accuracy", points, {}, lower=False, stops_early=stops_early).text()
    assert said in text
    assert ("optimizer steps" in text) == bool(said)
