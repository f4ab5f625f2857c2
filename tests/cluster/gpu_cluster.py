"""Run jobs on two nodes that claim two GPUs each, on a machine without GPUs, and print how each ended as JSON.

python tests/cluster/gpu_cluster.py FOLDER
"""

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from nodes import cluster_of, run_through

from scaler.errors import ScalerError

RECIPE = """
import os

import ray
import torch
from torch.utils.data import TensorDataset

import scaler


def build():
    print("ranks", os.environ["RANK"], os.environ["WORLD_SIZE"], "on", ray.get_runtime_context().get_node_id())
    data = TensorDataset(torch.zeros(32, 2))
    return scaler.Recipe(model=torch.nn.Linear(2, 1), train_data=data, loss=lambda model, batch: model(batch[0]).mean())
"""
JOB = """
name: small
recipe: gpu_recipe:build
reference: {global_batch_size: 8, lr: 0.1, optimizer: {name: sgd}}
scale: {num_workers: 2, per_worker_batch_size: 8}
train: {epochs: 1, num_samples: 32}
failures: {max_restarts: 0}
"""
SCENARIOS = {
    "spread": ["resources={gpus_per_worker: 0, placement: spread}"],
    "auto": [],
    "other_type": ["resources.accelerator_type=H100"],
    "too_many": ["scale.num_workers=5", "resources.cpus_per_worker=0.1"],
}


def main(storage: Path) -> None:
    """Run every scenario and print the lines of its workers, or its error."""
    (storage / "gpu_recipe.py").write_text(RECIPE)
    (storage / "job.yaml").write_text(JOB)
    found: dict[str, Any] = {}
    node = {"num_cpus": 2, "num_gpus": 2, "resources": {"accelerator_type:L4": 1}}
    with redirect_stdout(sys.stderr), cluster_of(0) as nodes:
        nodes.join(2, **node)
        for name, overrides in SCENARIOS.items():
            try:
                folder = run_through(nodes, storage / name, overrides, [], job_folder=storage)
                logs = [(Path(folder.uri) / "logs" / f"rank-{rank}.log").read_text() for rank in range(2)]
                found[name] = [line for log in logs for line in log.splitlines() if line.startswith("ranks")]
            except ScalerError as error:
                found[name] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
