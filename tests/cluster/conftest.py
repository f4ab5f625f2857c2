"""One embedded Ray for all tests here; they are few and real."""

from collections.abc import Iterator

import pytest

from scaler.cluster.embedded import ray_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    with ray_cluster(None, verbose=False):
        yield
