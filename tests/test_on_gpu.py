"""The script that proves the paths of a GPU runs here too, and claims nothing that needs a GPU."""

import json
from pathlib import Path

import on_gpu
import pytest

NEEDS_A_GPU = ["tf32", "per_worker_batch_size: auto, out of memory", "2 workers share a GPU (Ray, gloo)"]
NEEDS_TWO = ["2 workers, each with a GPU (Ray, NCCL)"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler
def test_on_a_cpu_it_runs_what_exists_there_and_passes_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    code = on_gpu.main(["--device", "cpu"])
    found = json.loads((tmp_path / "on_gpu.json").read_text())
    rows = {row["what"]: row for row in found["rows"]}
    assert len(rows) == len(on_gpu.CHECKS)
    assert [what for what, row in rows.items() if row["ok"] is False] == [], rows
    assert code == 0
    measured = {what: row["measured"] for what, row in rows.items() if row["ok"] is None}
    assert sorted(measured) == sorted([*NEEDS_A_GPU, *NEEDS_TWO, "overhead against plain DDP (fp32)"])
    assert {measured[what] for what in NEEDS_A_GPU} == {"needs a GPU"}
    assert measured[NEEDS_TWO[0]] == "needs two GPUs"
    assert "needs a GPU" in capsys.readouterr().out


def test_a_check_that_raises_is_a_row_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(bench: on_gpu.Bench) -> on_gpu.Row:
        """Do something."""
        raise RuntimeError("CUDA error:\n  device-side assert")

    monkeypatch.setitem(on_gpu.CHECKS, "bf16", broken)
    (row,) = on_gpu.run_checks("cpu", ["bf16"], tmp_path)
    assert row == on_gpu.Row(
        what="Do something.", expected="no error", measured="RuntimeError: CUDA error: device-side assert", ok=False
    )


def test_without_a_gpu_it_says_what_runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"sees no GPU here; --device cpu runs what exists on a CPU\."):
        on_gpu.main([])
