"""A run on Ray whose storage on s3:// has faults; ``benchmarks/s3_runs.py`` has longer ones."""

from pathlib import Path

import pytest
from faulty_s3 import FaultyS3

pytest.importorskip("s3fs", reason="pip install scaler[s3]")
pytest.importorskip("moto.server", reason="pip install scaler[dev]")
pytestmark = pytest.mark.filterwarnings("default")  # its dependencies' deprecations are not ours

from s3_runs import S3Run  # noqa: E402

STEPS, AT_STEP, STEPS_AWAY = 45, 22, 16  # there is a checkpoint every 20 steps


def test_workers_train_while_the_storage_is_away_and_nothing_is_lost_when_it_is_busy_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    server = FaultyS3()
    server.start()
    for name, value in {**server.environment, "AWS_MAX_ATTEMPTS": "3"}.items():  # botocore waits longer and longer
        monkeypatch.setenv(name, value)
    server.make_bucket("runs")
    server.delay_s = 0.02
    with S3Run(server, tmp_path, steps=STEPS) as run:
        run.wait_for_step(AT_STEP)
        server.stop()
        run.wait_for_step(AT_STEP + STEPS_AWAY)  # a training that waited for the storage would not take these
        server.busy_pct = 15
        server.start()
        assert run.process.wait(120) == 0, run.output
    assert server.refused > 3
    server.delay_s, server.busy_pct = 0.0, 0
    assert run.missing() == []
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()
