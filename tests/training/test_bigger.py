"""jobs/bigger: the plan for eight GPUs and its memory, and the same job at a tiny width on two workers."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from groups import run_group
from small_runs import Kept, step_losses

from scaler.job import load_job
from scaler.plan import make_plan
from scaler.training.loop import Training
from scaler.training.plan_job import plan_with_recipe
from scaler.training.recipe.load import load_recipe

FOLDER = Path(__file__).parents[2] / "jobs" / "bigger"
GIB = 2**30


def test_the_plan_for_eight_gpus() -> None:
    plan = make_plan(load_job(FOLDER / "job.yaml"))
    assert [warning.code for warning in plan.warnings] == ["clipping_with_scaled_lr"]
    assert (plan.global_batch_size, plan.per_worker_batch_size, plan.grad_accum_steps) == (256, 8, 4)  # sequences
    assert (plan.mesh["replicate"], plan.mesh["shard"], plan.data_parallel_size) == (1, 8, 8)
    assert plan.total_steps == 250_000
    assert plan.peak_lr == pytest.approx(0.00015)  # 0.0003 at four times the batch
    assert plan.lr_at(0) == 0
    assert plan.lr_at(8_388_608_000 // 4096) == pytest.approx(0.00015)  # the end of the reference's warmup


def test_the_memory_of_the_readme_is_that_of_the_model() -> None:
    sizes = {**load_job(FOLDER / "job.yaml").recipe_args, "data": None}
    recipe = load_recipe("recipe:build", folder=FOLDER, arguments=sizes)
    parameters = sum(parameter.numel() for parameter in recipe.model.parameters())
    assert parameters == 13_015_864_320
    assert all(parameter.is_meta for parameter in recipe.model.parameters())
    text = (FOLDER / "README.md").read_text()
    rows = dict(re.findall(r"^\| ([a-zA-Z' ]+?) +\|.*\| +([\d.]+) +\|$", text, flags=re.MULTILINE))
    expected = {
        "weights": 4 * parameters / 8,
        "gradients": 4 * parameters / 8,
        "AdamW's averages": 8 * parameters / 8,
        "gathered blocks": 2 * 2 * sum(parameter.numel() for parameter in recipe.model.blocks[0].parameters()),
        "embedding and head": 2 * 2 * 32_000 * 5120,
        "kept activations": 40 * 32_768 * 5120 * 2,
        "logits": 32_768 * 32_000 * (2 + 4 + 4 + 2),
    }
    assert {name: float(rows[name]) for name in expected} == {
        name: pytest.approx(size / GIB, abs=0.06) for name, size in expected.items()
    }


def on_rank(rank: int, world_size: int, folder: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    job = load_job(FOLDER / "tiny.yaml", overrides=["train.tokens=16384"])
    job, plan = plan_with_recipe(job, source="tiny.yaml", recipe_folder=FOLDER)
    recipe = load_recipe("recipe:build", folder=FOLDER, arguments=job.recipe_args)
    context = Kept(rank, world_size, folder)
    Training(recipe, job, plan, context).run()
    return {"records": [tuple(record) for record in context.records]}


def test_the_same_job_at_a_tiny_width_learns_on_two_workers(tmp_path: Path) -> None:
    losses = step_losses(run_group(on_rank, 2, str(tmp_path)))
    assert len(losses) == 16
    assert losses[0] == pytest.approx(5.545, abs=0.15)  # ln 256: it knows nothing
    assert losses[-1] < losses[0] - 0.5
