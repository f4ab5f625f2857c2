"""docs/evidence.md: how the points of MLPerf are read, and that the facts are those of the files."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlperf_rcp.facts import critical_batches, facts
from mlperf_rcp.points import read_points

ROOT = Path(__file__).resolve().parents[1]
FILES = ROOT.parent / "shared/mlperf"  # of MLCommons; they are no part of the project


def record(benchmark: str, batch: int, lr: float, amounts: list[float]) -> dict[str, Any]:
    return {
        "Benchmark": benchmark,
        "BS": batch,
        "Hyperparams": {"opt_base_learning_rate": lr},
        "Epochs to converge": amounts,
    }


def write(folder: Path, number: str, name: str, *records: dict[str, Any]) -> None:
    text = json.dumps({str(index): one for index, one in enumerate(records)})
    (folder / f"training_{number}__rcps_{name}.json").write_text(text)


def test_a_set_that_recurs_counts_once(tmp_path: Path) -> None:
    points = [record("bert", batch, 1e-3, [10.0, 11.0]) for batch in (8, 16)]
    for number in ("1.0.0", "1.1.0"):
        write(tmp_path, number, "bert", *points)
    write(tmp_path, "2.0.0", "bert", *points, record("bert", 32, 2e-3, [12.0, 13.0]))
    first, second = read_points(tmp_path)
    assert (first.rounds, [point.batch for point in first.points]) == (("1.0.0", "1.1.0"), [8, 16])
    assert (second.rounds, [point.batch for point in second.points]) == (("2.0.0",), [8, 16, 32])


def test_a_model_has_one_name_in_all_rounds(tmp_path: Path) -> None:
    write(tmp_path, "1.1.0", "ssd", record("ssd", 8, 0.1, [1.0]))
    write(tmp_path, "2.0.0", "ssd", record("ssd", 8, 1e-4, [4.0]))
    write(tmp_path, "5.0.0", "retinanet", record("retinanet", 8, 1e-4, [4.0]))
    assert [(found.benchmark, found.optimizer, found.rounds) for found in read_points(tmp_path)] == [
        ("retinanet", "adam", ("2.0.0", "5.0.0")),
        ("ssd", "sgd", ("1.1.0",)),
    ]


def test_of_two_points_at_one_batch_the_faster_counts(tmp_path: Path) -> None:
    write(tmp_path, "1.0.0", "bert", record("bert", 8, 1e-3, [20.0]), record("bert", 8, 2e-3, [10.0]))
    (found,) = read_points(tmp_path)
    assert [point.lr for point in found.points] == [2e-3]


def test_a_typing_error_is_left_out_and_counted(tmp_path: Path) -> None:
    write(tmp_path, "4.1.0", "gpt3", record("gpt3", 8, 1e-3, [10.0, 12.0, 11.0, 110.0]))
    (found,) = read_points(tmp_path)
    assert (found.points[0].amounts, found.points[0].left_out) == ((10.0, 12.0, 11.0), 1)


def test_steps_become_samples(tmp_path: Path) -> None:
    write(tmp_path, "3.1.0", "stable_diffusion", record("sd", 512, 1e-7, [5000.0]))
    (found,) = read_points(tmp_path)
    assert (found.benchmark, found.points[0].amounts) == ("stable_diffusion", (512 * 5000.0,))


def test_a_folder_without_points_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no file training_\*__rcps_\*\.json"):
        read_points(tmp_path)


def test_the_facts_of_a_benchmark_that_follows_the_square_root(tmp_path: Path) -> None:
    batches = (64, 256, 1024, 4096)
    write(
        tmp_path,
        "1.0.0",
        "flux1",
        *(record("flux1", batch, 1e-3 * (batch / 64) ** 0.5, [1e6 * (1 + batch / 1000)]) for batch in batches),
    )
    (found,) = facts(read_points(tmp_path))["workloads"]
    assert found["critical_batch"]["value"] == pytest.approx(1000, rel=1e-3)
    assert found["lr"]["exponent"]["value"] == pytest.approx(0.5)
    assert (found["lr"]["auto"], found["lr"]["closest"]) == ("sqrt", "sqrt")
    assert found["lr"]["rules"]["sqrt"] == {
        "typical_factor": 1.0,
        "largest_factor": 1.0,
        "holds_to": 4096,
        "breaks_at": None,
    }
    assert found["lr"]["rules"]["linear"]["breaks_at"] == 256
    assert found["lr"]["rules"]["none"]["largest_factor"] == 8.0


@pytest.mark.skipif(not FILES.is_dir(), reason=f"{FILES} is not there")
def test_the_facts_are_those_of_the_files() -> None:
    written = json.loads((ROOT / "benchmarks/mlperf_rcp/facts.json").read_text())
    assert_same(facts(read_points(FILES)), written, f"python benchmarks/mlperf_rcp {FILES} --write")


def test_the_short_list_of_critical_batches_is_that_of_the_facts() -> None:
    folder = ROOT / "benchmarks/mlperf_rcp"
    found = json.loads((folder / "facts.json").read_text())
    packaged = ROOT / "scaler/report/experiment/public_workloads.json"
    assert critical_batches(found) == json.loads(packaged.read_text())


def assert_same(made: Any, written: Any, remedy: str) -> None:
    """Compare JSON; floats, which are rounded to 4 digits, may differ by their last one."""
    if isinstance(written, dict):
        assert made.keys() == written.keys(), remedy
    if isinstance(written, dict | list):
        assert len(made) == len(written), remedy
        for key in written if isinstance(written, dict) else range(len(written)):
            assert_same(made[key], written[key], remedy)
    elif isinstance(written, float):
        assert made == pytest.approx(written, rel=2e-3, abs=2e-4), remedy
    else:
        assert made == written, remedy
