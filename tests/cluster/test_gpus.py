"""Which GPUs a run asks for, and what it says when they cannot be used. No GPU is needed."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cluster_script import outcomes_of

from scaler.cluster.capacity import require_resources
from scaler.cluster.gpus import with_gpus, with_type
from scaler.cluster.versions import installed_versions
from scaler.errors import ClusterError
from scaler.job import Job
from scaler.runs import RunFolder
from scaler.training.process_group import collective_backend

Digits = Callable[..., Job]
CPU_NODE = {"CPU": 8.0}
GPU_NODE = {"CPU": 8.0, "GPU": 2.0, "accelerator_type:L4": 1.0}


@pytest.mark.parametrize(
    ("overrides", "nodes", "gpus"),
    [
        (["resources.gpus_per_worker=auto"], [CPU_NODE], 0.0),
        (["resources.gpus_per_worker=auto"], [CPU_NODE, GPU_NODE], 1.0),
        (["resources={accelerator_type: L4}"], [CPU_NODE], 1.0),  # such nodes may be started on demand
        (["resources.gpus_per_worker=0"], [GPU_NODE], 0.0),
        (["resources.gpus_per_worker=0.5"], [CPU_NODE], 0.5),
    ],
)
def test_a_worker_gets_a_gpu_if_the_cluster_has_one(
    digits: Digits, overrides: Sequence[str], nodes: Sequence[Mapping[str, float]], gpus: float
) -> None:
    assert with_gpus(digits(*overrides), nodes).resources.gpus == gpus


def test_an_unresolved_number_is_never_used(digits: Digits) -> None:
    with pytest.raises(ValueError, match="has not been resolved"):
        _ = digits("resources.gpus_per_worker=auto").resources.gpus


@pytest.mark.parametrize(
    ("workers", "gpus", "nodes", "text"),
    [
        (
            4,
            1.0,
            [GPU_NODE],
            "4 workers need 4 CPU, 4 GPU, and the cluster has 8 CPU, 2 GPU.\n"
            "  --workers 2 fits. Workers can share GPUs, which is slower: --set resources.gpus_per_worker=0.5. "
            "To train on CPUs: --set resources.gpus_per_worker=0.",
        ),
        (  # two workers of 0.4 fit on a GPU, and a third does not get the rest of two GPUs
            7,
            0.4,
            [GPU_NODE],
            "7 workers need 7 CPU, 2.8 GPU, and the cluster has 8 CPU, 2 GPU.\n"
            "  --workers 4 fits. Workers can share GPUs, which is slower: --set resources.gpus_per_worker=0.25. "
            "To train on CPUs: --set resources.gpus_per_worker=0.",
        ),
        (  # GPUs are enough, and CPUs are not
            2,
            1.0,
            [{"CPU": 1.0, "GPU": 2.0}],
            "2 workers need 2 CPU, 2 GPU, and the cluster has 1 CPU, 2 GPU.\n"
            "  --workers 1 fits. Workers can share CPUs: --set resources.cpus_per_worker=0.5.",
        ),
    ],
)
def test_more_workers_than_gpus_are_refused_with_what_fits(
    workers: int, gpus: float, nodes: Sequence[Mapping[str, float]], text: str
) -> None:
    with pytest.raises(ClusterError) as caught:
        require_resources(workers=workers, cpus_per_worker=1.0, gpus_per_worker=gpus, nodes=nodes)
    assert str(caught.value) == text


def test_only_nodes_with_the_type_count() -> None:
    assert with_type([CPU_NODE, GPU_NODE], "L4") == [GPU_NODE]
    assert with_type([CPU_NODE], None) == [CPU_NODE]
    with pytest.raises(ClusterError) as caught:
        with_type([CPU_NODE, GPU_NODE, {"accelerator_type:H100": 1.0}], "A100")
    assert str(caught.value) == (
        "resources.accelerator_type = A100, and the cluster has H100, L4.\n"
        "  Give H100 or L4, or leave accelerator_type out."
    )
    with pytest.raises(ClusterError) as caught:
        with_type([CPU_NODE], "A100")
    assert str(caught.value) == (
        "resources.accelerator_type = A100, and the cluster has no node with a known type of GPU.\n"
        "  Leave accelerator_type out."
    )


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ("{gpus_per_worker: 0}", ({"CPU": 1.0}, False, "PACK")),
        ("{gpus_per_worker: 0.5, placement: spread}", ({"CPU": 1.0, "GPU": 0.5}, True, "SPREAD")),
        (
            "{gpus_per_worker: 1, accelerator_type: L4}",
            ({"CPU": 1.0, "GPU": 1.0, "accelerator_type:L4": 0.001}, True, "PACK"),
        ),
    ],
)
@pytest.mark.usefixtures("cluster")  # Ray is imported with its token
def test_ray_train_gets_the_resources_the_type_and_the_placement(
    digits: Digits, tmp_path: Path, resources: str, expected: Any
) -> None:
    from scaler.cluster.attempt import Assignment
    from scaler.cluster.trainer import make_trainer

    job = digits(f"resources={resources}")
    assignment = Assignment(
        job=job.model_dump(),
        plan={},
        folder=RunFolder(str(tmp_path)),
        recipe_folder="",
        collector=None,
        driver=installed_versions(),
        embedded=True,
    )
    trainer = make_trainer(job, assignment, embedded=True, folder_name="ray_train")
    config: Any = trainer.scaling_config
    assert (config._resources_per_worker_not_none, config.use_gpu, config.placement_strategy) == expected
    assert trainer.backend_config.backend_cls().share_cuda_visible_devices


class Context:
    """A Ray Train context of the fourth of six workers, the second on its node."""

    get_world_rank = staticmethod(lambda: 3)
    get_world_size = staticmethod(lambda: 6)
    get_local_rank = staticmethod(lambda: 1)
    get_local_world_size = staticmethod(lambda: 2)
    get_node_rank = staticmethod(lambda: 1)


@pytest.fixture
def on_a_node(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.train

    from scaler.cluster import worker_device

    monkeypatch.setattr(ray.train, "get_context", lambda: Context)
    monkeypatch.setattr(worker_device.socket, "gethostname", lambda: "node-2")
    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")


@pytest.mark.usefixtures("on_a_node")
def test_a_worker_has_torchruns_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    from scaler.cluster.attempt import set_rank_variables
    from scaler.cluster.worker import RayTrainGroup

    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK")
    for name in names:
        monkeypatch.setenv(name, "before")  # restored after the test
    set_rank_variables(RayTrainGroup(SimpleNamespace(collector=None)))
    assert [os.environ[name] for name in names] == ["3", "6", "1", "2", "1"]


@pytest.mark.usefixtures("on_a_node")
def test_the_device_is_the_gpu_that_ray_assigned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker of a node sees the GPUs of all of them, so the device is not always the first."""
    import ray
    from ray.air._internal.device_manager.nvidia_gpu import CUDATorchDeviceManager

    from scaler.cluster.worker_device import assigned_device

    monkeypatch.setattr("ray.train.torch.get_device", lambda: CUDATorchDeviceManager().get_devices()[0])
    monkeypatch.setattr("scaler.training.device.gpus_here", lambda: 2)
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [3])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    assert assigned_device(1.0) == torch.device("cuda", 1)
    assert assigned_device(0) == torch.device("cpu")


@pytest.mark.usefixtures("on_a_node")
def test_a_gpu_that_torch_cannot_use_is_an_error_and_not_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from scaler.cluster.worker_device import assigned_device

    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [3])
    monkeypatch.setattr("scaler.training.device.gpus_here", lambda: 0)
    with pytest.raises(ClusterError) as caught:
        assigned_device(0.5)
    assert str(caught.value) == (
        "Ray assigned GPU 3 of the node node-2 to rank 3, and torch 2.13.0+cpu there sees no GPU.\n"
        "  Install a torch for this GPU and its driver on the node, or train on CPUs: "
        "--set resources.gpus_per_worker=0."
    )


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """How each job of ``gpu_cluster.py`` ended."""
    return outcomes_of(Path(__file__).parent / "gpu_cluster.py", tmp_path_factory.mktemp("gpus"))


def test_workers_are_spread_over_nodes_and_know_their_ranks(ended: dict[str, Any]) -> None:
    ranks, nodes = zip(*(line.split(" on ") for line in ended["spread"]), strict=True)
    assert [text.split()[1:3] for text in ranks] == [["0", "2"], ["1", "2"]]
    assert len(set(nodes)) == 2


def test_a_cluster_that_claims_gpus_which_torch_lacks_ends_the_run_with_what_to_install(ended: dict[str, Any]) -> None:
    """The default asks for a GPU, because the cluster has some; then the worker does not train on the CPU instead."""
    assert re.match(
        r"Ray assigned GPU [01] of the node .* to rank \d, and torch .* there sees no GPU\.\n"
        r"  Install a torch for this GPU and its driver on the node, or train on CPUs: "
        r"--set resources\.gpus_per_worker=0\.\n  Reported by rank \d; its log: ",
        ended["auto"],
    ), ended["auto"]


def test_a_job_for_other_gpus_or_for_more_is_refused_before_it_starts(ended: dict[str, Any]) -> None:
    assert ended["other_type"].startswith("resources.accelerator_type = H100, and the cluster has L4.")
    assert ended["too_many"].startswith(
        "5 workers need 0.5 CPU, 5 GPU, and the 3 nodes of the cluster have 4 CPU, 4 GPU.\n  --workers 4 fits."
    )


@pytest.mark.usefixtures("on_a_node")
def test_nccl_is_for_workers_with_a_gpu_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    assert [collective_backend(gpus) for gpus in (0.0, 0.5, 1.0)] == ["gloo", "gloo", "nccl"]
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    assert collective_backend(0.5) == "gloo"
    with pytest.raises(ClusterError) as caught:
        collective_backend(1.0)
    assert str(caught.value) == (
        "resources.gpus_per_worker = 1 needs NCCL, and torch 2.13.0+cpu on the node node-2 was built without it.\n"
        "  Install a torch with NCCL, or use gloo, which is slower: --set resources.gpus_per_worker=0.5."
    )
