"""Checkpoints of sharded states: saved by any number of workers and loaded by any other, bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from groups import run_group
from small_runs import EveryStep, in_this_process, make_job, make_recipe
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor

from scaler.runs import RunFolder
from scaler.training.checkpoints.copies import copy_state
from scaler.training.checkpoints.files import complete_checkpoints, find_checkpoint, read_manifest
from scaler.training.checkpoints.save import FolderWriter, save_copy
from scaler.training.checkpoints.state import load_checkpoint, write_checkpoint
from scaler.training.loop import Training
from scaler.training.process_group import process_of_its_own

Layout = tuple[DeviceMesh, tuple[Placement, ...]]
SHAPES: dict[str, tuple[int, ...]] = {"weight": (7, 3), "bias": (2,), "one": (1, 5), "empty": (0, 3), "conv": (5, 2, 3)}


def whole_state() -> dict[str, Any]:
    """Return the state that is saved, with whole tensors."""
    torch.manual_seed(0)
    weights: dict[str, Any] = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    weights |= {"half": torch.randn(3, 3).bfloat16(), "flag": torch.rand(6) > 0.5}
    weights["tied"] = weights["weight"]
    moments = {place: {"step": torch.tensor(3.0), "exp_avg": torch.randn(7, 3)} for place in range(2)}
    return {
        "model": {**weights, "running": torch.randn(4)},
        "optimizer": {"state": moments, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
        "average": None,
        "samples_seen": 9,
    }


def is_sharded(path: tuple[Any, ...]) -> bool:
    """Return whether a tensor of the state is sharded: those of the parameters are, buffers and counters are not."""
    return path[-1] not in ("running", "step")


def laid_out(state: Any, layout: Layout | None, path: tuple[Any, ...] = (), known: Any = None) -> Any:
    known = {} if known is None else known
    if isinstance(state, dict):
        return {key: laid_out(value, layout, (*path, key), known) for key, value in state.items()}
    if layout is None or not isinstance(state, Tensor) or not is_sharded(path):
        return state
    if id(state) not in known:
        known[id(state)] = distribute_tensor(state, *layout, src_data_rank=None)
    return known[id(state)]


def require_equal(found: Any, expected: Any, path: str = "") -> None:
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            require_equal(found[key], value, f"{path}/{key}")
    elif isinstance(expected, Tensor):
        assert type(found) is type(expected), path
        one, other = (value.to_local() if isinstance(value, DTensor) else value for value in (found, expected))
        assert one.dtype == other.dtype, path
        assert torch.equal(one, other), path
    else:
        assert found == expected, path


def into(layout: Layout) -> Any:
    """Return a ``place`` that makes empty tensors of a layout."""

    def place(path: tuple[Any, ...], like: Tensor) -> Tensor:
        assert like.is_meta
        empty = torch.zeros(like.shape, dtype=like.dtype)
        return distribute_tensor(empty, *layout, src_data_rank=None) if is_sharded(path) else empty

    return place


def _save_and_load(rank: int, world_size: int, folder: str) -> int:
    layouts: dict[str, Layout | None] = {"whole": None}
    for size in range(1, world_size + 1):
        layouts[f"{size}"] = DeviceMesh("cpu", list(range(size))), (Shard(0),)
    layouts["2x2"] = DeviceMesh("cpu", [[0, 1], [2, 3]], mesh_dim_names=("replicate", "shard")), (Replicate(), Shard(0))
    layouts["columns"] = DeviceMesh("cpu", [0, 1]), (Shard(1),)
    groups = {size: dist.new_group(list(range(size)), backend="gloo") for size in range(2, world_size + 1)}
    state, compared = whole_state(), 0
    for number, (name, layout) in enumerate(layouts.items(), start=1):
        size = 1 if layout is None else layout[0].mesh.numel()
        if name == "columns":
            state = {"model": {"weight": state["model"]["weight"]}}
        if rank < size:
            about = {"samples_seen": number, "name": name}
            copy = copy_state(laid_out(state, layout), rank=rank)
            save_copy(copy, FolderWriter(RunFolder(folder), about, copy.plain, rank=rank), groups.get(size))
        dist.barrier()
        for other, target in layouts.items():
            if (target is not None and rank >= target[0].mesh.numel()) or (name == "columns") != (other == "columns"):
                continue
            found = load_checkpoint(RunFolder(folder), number, place=into(target) if target is not None else None)
            require_equal(found, laid_out(state, target))
            if name != "columns":
                assert found["model"]["tied"] is found["model"]["weight"]
            compared += 1
    return compared


def test_saved_by_any_number_of_workers_and_loaded_by_any_other(tmp_path: Path) -> None:
    """Replicated, sharded over 1 to 4 workers, over 2 x 2, and by columns, each into each."""
    compared = run_group(_save_and_load, 4, str(tmp_path / "run"))
    assert compared[0] == 6 * 6 + 1
    folder = RunFolder(str(tmp_path / "run"))
    assert find_checkpoint(folder) == (7, [])
    sizes = {name: sum["bytes"] for name, sum in read_manifest(folder, 6)["files"].items()}
    tensors = sum(size for name, size in sizes.items() if name.endswith(".bin"))
    assert tensors == read_tensor_bytes(folder, 1), "replicas and tied weights are stored once"
    assert sum(name.startswith("model") for name in sizes) == 4, "replicas share the work"


def read_tensor_bytes(folder: RunFolder, samples_seen: int) -> int:
    files = read_manifest(folder, samples_seen)["files"]
    return sum(about["bytes"] for name, about in files.items() if name.endswith(".bin"))


def _constants(training: Training) -> Any:
    """Return the constants of each group of the optimizer, without the learning rate, which each step sets."""
    return [
        {key: value for key, value in group.items() if key not in ("params", "lr")}
        for group in training._stepper.optimizers[None].optimizer.param_groups
    ]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_resumed_optimizer_has_the_plans_constants_the_checkpoints_moments_and_takes_no_step_for_them(
    tmp_path: Path, strategy: str
) -> None:
    """torch's own loader takes a step at learning rate 0 to make the moments, and restores the saved constants."""
    adamw = {"name": "adamw", "weight_decay": 0.1}
    before = make_job(per_worker_batch_size=16, rule="sqrt", reference={"optimizer": adamw})
    changed = {"lr": 0.02, "optimizer": {**adamw, "weight_decay": 0.2, "eps": 1e-6}}
    after = make_job(per_worker_batch_size=64, rule="sqrt", reference=changed, train={"strategy": strategy})
    saving, around = in_this_process(tmp_path, make_recipe(), before, stop_after=3)
    saving._hand_over.interval = EveryStep()
    saving.run()
    with process_of_its_own():
        fresh, _ = in_this_process(tmp_path, make_recipe(), after)
        resumed, again = in_this_process(tmp_path, make_recipe(), after, stop_after=1)
        resumed.restore(complete_checkpoints(around.folder)[-1])
        assert resumed.samples_seen == 48
        assert _constants(resumed) == _constants(fresh) != _constants(saving)
        saved = saving._stepper.optimizers[None].optimizer.state_dict()["state"]
        state = resumed._stepper.optimizers[None].optimizer.state_dict()["state"]
        assert list(state) == list(saved) == [0, 1, 2, 3]
        for number, moments in saved.items():
            assert list(state[number]) == ["step", "exp_avg", "exp_avg_sq"]
            assert state[number]["step"] == moments["step"] == 3
            for name in ("exp_avg", "exp_avg_sq"):
                found = state[number][name]
                assert isinstance(found, DTensor) == (strategy == "fsdp")
                whole = found.full_tensor() if isinstance(found, DTensor) else found
                assert torch.equal(whole, moments[name])
        planned = resumed._run.planned_step(64)
        resumed._hand_over.interval = EveryStep()
        resumed.run()
        assert again.records[0].samples_seen == 48
        assert again.records[0].lr == pytest.approx(planned.lr, rel=1e-12)


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.bool,
     torch.uint8, torch.int64],
)  # fmt: skip
def test_every_dtype_is_stored_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = RunFolder(str(tmp_path / "run"))
    bits = torch.randint(0, 2 if dtype is torch.bool else 256, (48,), dtype=torch.uint8)
    flat = bits.view(dtype)
    state = {"flat": flat, "one": flat[1].clone(), "empty": flat[:0].clone(), "matrix": flat.view(3, -1)}
    write_checkpoint(folder, state, {"samples_seen": 1})
    found = load_checkpoint(folder, 1)
    for name, expected in state.items():
        assert (found[name].dtype, found[name].shape) == (dtype, expected.shape)
        assert torch.equal(found[name].reshape(-1).view(torch.uint8), expected.reshape(-1).view(torch.uint8)), name


def test_strides_ties_and_other_kinds_of_tensors_are_kept(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path / "run"))
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    state = {
        "image": image,
        "turned": torch.randn(3, 4).T,
        "row": torch.randn(1).expand(5),
        "turned sign": torch.randn(3, dtype=torch.complex64).conj(),
        "tied": [image, {"again": image}],
        "sparse": torch.eye(3).to_sparse(),
        0: {("a", 1): torch.ones(2), "0": torch.zeros(2), 0: torch.ones(1)},
        "a/b": {"c": torch.ones(1)},
        "a": {"b/c": torch.zeros(1)},
    }
    write_checkpoint(folder, state, {"samples_seen": 1})
    found = load_checkpoint(folder, 1)
    for name in ("image", "turned", "row", "turned sign"):
        assert torch.equal(found[name], state[name]), name
    assert found["image"].is_contiguous(memory_format=torch.channels_last)
    assert found["turned"].stride() == (1, 4)
    assert found["tied"][0] is found["tied"][1]["again"] is found["image"]
    assert torch.equal(found["sparse"].to_dense(), torch.eye(3))
    require_equal(found[0], state[0])
    assert (found["a/b"]["c"], found["a"]["b/c"]) == (1, 0)
