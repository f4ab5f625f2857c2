"""A job with round numbers: 10 epochs of 1000 samples; batch 100, 4 times the reference's; peak lr 0.04."""

from collections.abc import Callable

import pytest

from scaler.job import Job

ROUND = [
    "train={epochs: 10, num_samples: 1000}",
    "reference.global_batch_size=25",
    "scale.per_worker_batch_size=50",
    "schedule={name: constant}",
]


@pytest.fixture(scope="session")
def round_job(digits: Callable[..., Job]) -> Callable[..., Job]:
    def load(*overrides: str, workers: int | None = None) -> Job:
        return digits(*ROUND, *overrides, workers=workers)

    return load
