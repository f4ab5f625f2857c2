"""The memory that a plan's weights, gradients and optimizer state take.

    bytes = 4 * weights + 4 * trained weights + 4 * states * trained weights   (and 4 * weights for train.ema)

``states`` is 2 for Adam, 1 for SGD with momentum. All are fp32, also with ``precision: bf16``. With sharding, each
worker has its part of all of them. This is table 1 of Rajbhandari et al. 2020 (ZeRO, https://arxiv.org/abs/1910.02054)
for fp32 weights; there, 16-bit weights and gradients with fp32 copies take as many bytes for Adam, 16 a parameter.
"""

from collections.abc import Mapping

from scaler.core.mesh import model_parallel_size
from scaler.core.optimizers import optimizer_facts
from scaler.job import Job
from scaler.plan.model import Plan, PlanMemory

FP32_BYTES, GIB = 4, 2**30
LEAST_GIB = 0.1  # of the whole model: less is no reason to shard it


def plan_memory(plan: Plan, job: Job, sizes: Mapping[str, int]) -> PlanMemory | None:
    """Return the memory of the whole model, and of a worker with either strategy.

    None: an optimizer's state is not known, or a loop of one's own divides the model in other ways too.

    Args:
        plan: complete but for its memory.
        job: that the plan was made from.
        sizes: number of elements of each of the model's parameters, by name.
    """
    if model_parallel_size(plan.mesh) * plan.mesh["expert"] > 1:
        return None
    frozen = {name for group in plan.groups if group.frozen and group.unfreeze_at is None for name in group.tensors}
    options = dict.fromkeys(sizes, plan.optimizer) | {
        name: own.optimizer for own in plan.optimizers for name in own.tensors
    }
    weights, trained, states = sum(sizes.values()), 0, 0
    for name, size in sizes.items():
        if name in frozen:
            continue
        kept = optimizer_facts(options[name]["name"]).states(options[name])
        if kept is None:
            return None
        trained += size
        states += kept * size
    parts = {
        "weights_gib": weights,
        "gradients_gib": trained,
        "optimizer_gib": states,
        "average_gib": weights if job.train.ema is not None else 0,
    }
    whole, is_sharded = sum(parts.values()) * FP32_BYTES / GIB, job.train.strategy == "fsdp"
    sharded = whole / (plan.mesh["shard"] if is_sharded else plan.world_size)
    return PlanMemory(
        num_parameters=weights,
        **{name: elements * FP32_BYTES / GIB for name, elements in parts.items()},
        worker_gib=sharded if is_sharded else whole,
        ddp_gib=whole,
        fsdp_gib=sharded,
    )


def memory_reason(plan: Plan, job: Job) -> dict[str, str]:
    """Return what the memory of a worker consists of, under its key; empty if it is not known, or little."""
    memory, is_sharded = plan.memory, job.train.strategy == "fsdp"
    if memory is None or (memory.ddp_gib < LEAST_GIB and not is_sharded):
        return {}
    named = {"weights": memory.weights_gib, "gradients": memory.gradients_gib, "optimizer": memory.optimizer_gib}
    named |= {"average": memory.average_gib} if memory.average_gib else {}
    parts = " + ".join(f"{name} {gib:.3g}" for name, gib in named.items())
    if is_sharded:
        text = f"1/{plan.mesh['shard']} of {parts}; with ddp {memory.ddp_gib:.3g} GiB"
    else:
        text = parts + (f"; with fsdp {memory.fsdp_gib:.3g} GiB" if plan.world_size > 1 else "")
    where = " in CPU memory" if job.train.fsdp.cpu_offload else ""
    return {"memory": f"a worker{where}, without activations: {text}"}
