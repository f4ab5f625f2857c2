"""A short version of ``benchmarks/chaos.py``: the same functions, one run, two faults."""

import random
from pathlib import Path

from chaos import is_well
from kill_workers import run, samples_lost_and_repeated, write_job

EPOCHS = 24  # of 45 steps


def test_workers_that_are_killed_at_random_moments_change_nothing(tmp_path: Path) -> None:
    calm = run(write_job(tmp_path / "calm", epochs=EPOCHS, overrides={}))
    faulty = run(
        write_job(tmp_path / "faulty", epochs=EPOCHS, overrides={}), faults=2, rng=random.Random(4), horizon_s=3
    )
    assert calm.exit_code == 0, (tmp_path / "calm/output.log").read_text()
    assert faulty.exit_code == 0, (tmp_path / "faulty/output.log").read_text()
    assert len(faulty.faults) == 2, "a fault that came too late is none"
    assert faulty.weights == calm.weights
    assert samples_lost_and_repeated(calm) == samples_lost_and_repeated(faulty) == (0, 0)
    assert [row["ended_by"] for row in faulty.report["attempts"]] == ["lost", "lost", "finished"]
    assert is_well(faulty, calm)
