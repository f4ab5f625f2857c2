"""Errors before a cluster is started or asked."""

import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from scaler.cluster.capacity import require_resources
from scaler.cluster.embedded import embedded_cluster
from scaler.cluster.running import require_reachable
from scaler.errors import ClusterError


@pytest.mark.parametrize(
    ("workers", "cpus", "gpus", "nodes", "text"),
    [
        (
            3,
            1.0,
            0.0,
            [{"CPU": 2.0}],
            "3 workers need 3 CPU, and the cluster has 2 CPU.\n"
            "  --workers 2 fits. Workers can share CPUs: --set resources.cpus_per_worker=0.66.",
        ),
        (
            2,
            3.0,
            0.0,
            [{"CPU": 4.0}, {"CPU": 2.0}],  # enough in all, and no worker stretches over two nodes
            "2 workers need 6 CPU, and the 2 nodes of the cluster have 6 CPU.\n"
            "  --workers 1 fits. Workers can share CPUs: --set resources.cpus_per_worker=2.",
        ),
        (
            2,
            1.0,
            1.0,
            [{"CPU": 8.0}],
            "2 workers need 2 CPU, 2 GPU, and the cluster has 8 CPU, 0 GPU.\n"
            "  To train on CPUs: --set resources.gpus_per_worker=0.",
        ),
    ],
)
def test_a_job_that_does_not_fit_is_refused_with_options_that_fit(
    workers: int, cpus: float, gpus: float, nodes: Sequence[Mapping[str, float]], text: str
) -> None:
    with pytest.raises(ClusterError) as caught:
        require_resources(workers=workers, cpus_per_worker=cpus, gpus_per_worker=gpus, nodes=nodes)
    assert str(caught.value) == text


def test_what_the_remedy_says_fits() -> None:
    for workers in range(1, 40):
        try:
            require_resources(workers=workers, cpus_per_worker=1.0, gpus_per_worker=0.0, nodes=[{"CPU": 2.0}])
        except ClusterError as error:
            share = float(error.remedy.rpartition("=")[2].rstrip("."))
            require_resources(workers=workers, cpus_per_worker=share, gpus_per_worker=0.0, nodes=[{"CPU": 2.0}])


def test_an_address_where_nothing_listens_is_refused_in_seconds() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(ClusterError) as caught:
            require_reachable(f"127.0.0.1:{port}")
    assert time.monotonic() - began < 60, "Ray itself tries for minutes"
    assert caught.value.problem == f"no Ray cluster at 127.0.0.1:{port}: Connection refused."


def test_an_address_where_something_listens_is_accepted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        require_reachable(f"127.0.0.1:{server.getsockname()[1]}")


def test_a_missing_folder_for_rays_files_is_refused_and_leaves_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "gone"))
    monkeypatch.delitem(sys.modules, "ray", raising=False)  # as in a process that is about to start its first cluster
    before = dict(os.environ)
    with pytest.raises(ClusterError) as caught, embedded_cluster(verbose=False):
        pass
    assert str(caught.value) == (
        f"no Ray cluster on this machine: no folder can be made in {tmp_path}/gone: No such file or directory.\n"
        "  Set RAY_TMPDIR to another folder for Ray's files, with a short path."
    )
    assert dict(os.environ) == before
