"""Two ranks compute what one process computes. One pair of processes serves all tests."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from make_shapes import Shapes
from safetensors.torch import load_file

pytestmark = pytest.mark.slow  # two processes train for a minute; tests/test_ranks.py is the quick proof
HELPERS = Path(__file__).parents[1] / "helpers"
WORKER = HELPERS / "two_ranks.py"


@pytest.fixture(scope="module")
def ranks(shapes: Shapes, image_encoder_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank found."""
    out = tmp_path_factory.mktemp("two_ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(HELPERS),
    }
    command = [sys.executable, str(WORKER), str(out), str(image_encoder_folder("timm_resnet")), *shapes.overrides]
    both = [subprocess.Popen(command, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]
    assert [process.wait(800) for process in both] == [0, 0]
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]


def test_gradients_are_those_of_one_process(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert len(found["gradients"]) == 6
        for name, error in found["gradients"].items():
            assert error <= (1e-5 if name.startswith("float32") else 1e-10), name


def test_gradients_of_a_loss_over_pairs_are_those_of_one_graph(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert len(found["pairs"]) == 8
        for name, error in found["pairs"].items():
            assert error <= 1e-10, name


def test_gradients_beside_an_alignment_are_those_of_one_graph(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert len(found["aligned"]) == 2
        assert max(found["aligned"].values()) <= 1e-10


def test_metrics_are_those_of_one_process(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert len(found["evaluation"]) == 37 * 8
        assert max(found["evaluation"].values()) <= 1e-12


def test_metrics_of_several_tasks_are_those_of_one_process(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert len(found["several"]) == 6
        assert max(found["several"].values()) <= 1e-12


def test_what_is_tuned_is_that_of_one_process(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert found["tuned"]["together"] == found["tuned"]["alone"]
        assert found["tuned"]["alone"]["5"]["told"]["tuned"]["nll"]


def test_a_parameter_that_no_rank_used_keeps_no_gradient(ranks: list[dict[str, Any]]) -> None:
    assert [found["unused"] for found in ranks] == [{"none": True, "one": True, "both": True}] * 2


def test_a_wish_of_one_rank_is_taken_by_all_at_one_step_and_once(ranks: list[dict[str, Any]]) -> None:
    assert [found["agreed"] for found in ranks] == [[[False, False], [True, False], [False, False]]] * 2


def test_an_overflow_of_one_rank_skips_the_step_of_all(ranks: list[dict[str, Any]]) -> None:
    assert [found["overflowed"] for found in ranks] == [[1, 2.0**16, 0, 2.0**15]] * 2


def test_trained_statistics_are_averaged(ranks: list[dict[str, Any]]) -> None:
    assert [found["statistics"] for found in ranks] == [[1.0], [1.0]]


def test_everyone_gets_every_value(ranks: list[dict[str, Any]]) -> None:
    assert [found["gathered"] for found in ranks] == [[0, 1], [0, 1]]


def test_a_sharded_step_is_that_of_one_process(ranks: list[dict[str, Any]]) -> None:
    """Whatever rows the ranks have: gradients, the norm that clips them, and the weights that come out."""
    for found in ranks:
        assert len(found["sharded"]) == 10
        for name, errors in found["sharded"].items():
            assert errors["other names"] == 0, name
            assert max(errors.values()) <= 1e-5, (name, errors)


def differences(one: str, other: str) -> dict[str, float]:
    """The largest difference of each parameter and buffer in two files."""
    a, b = load_file(one), load_file(other)
    assert a.keys() == b.keys()
    return {name: float((a[name].double() - b[name].double()).abs().max()) for name in a}


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_layers_that_join_leave_the_ranks_equal(kind: str, ranks: list[dict[str, Any]]) -> None:
    """Every parameter and buffer, running statistics too, when training has ended."""
    one, other = (found["thawed"][kind]["state"] for found in ranks)
    assert set(differences(one, other).values()) == {0.0}


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_layers_join_at_epoch_1_and_not_before(kind: str, ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        run = found["thawed"][kind]
        joining = set(run["joining"])
        before, after = map(set, run["moved"])
        assert {name.split(".")[0] for name in joining} == {"image_encoder", "text_encoder"}
        assert joining.isdisjoint(before)
        assert joining <= after
        own = {name.rpartition(".")[0] for name in joining}
        statistics = {
            name for name in load_file(run["state"]) if ".running_" in name and name.rpartition(".")[0] in own
        }
        assert bool(statistics) == (kind == "resnet")
        assert statistics.isdisjoint(before)
        assert statistics <= after


def test_a_run_in_which_layers_join_is_that_of_one_process(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        alone, together = (found["thawed"][name] for name in ("alone", "vit"))
        assert max(differences(alone["state"], together["state"]).values()) < 1e-5
        assert (alone["joining"], alone["moved"]) == (together["joining"], together["moved"])
