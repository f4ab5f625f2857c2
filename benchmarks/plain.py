"""The loop that the benchmarks compare with: Ray Train and DDP or FSDP2 as in the tutorials of Ray and torch.

``python benchmarks/plain.py CONFIG.json`` runs it as a script of its own, with Ray's default settings.
"""

import json
import sys
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train.torch import TorchTrainer
from stopwatch import build
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

OPTIMIZERS = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


def train_loop(config: dict[str, Any]) -> None:
    """Train a recipe's model as in the tutorials, on every worker of Ray Train.

    Args:
        config: ``recipe`` (arguments of ``stopwatch.build``), ``optimizer``, ``batch_size`` of one worker, ``epochs``,
            ``threads`` (None: Ray's choice) and ``report`` (whether to report the loss after each epoch). With
            ``sharded_clip``, the model's blocks are sharded, and the gradient's norm is clipped to it.
    """
    if config["threads"] is not None:
        torch.set_num_threads(config["threads"])
    torch.manual_seed(0)
    recipe = build(**config["recipe"])
    clip = config.get("sharded_clip")
    model = recipe.model if clip is not None else ray.train.torch.prepare_model(recipe.model)
    if clip is not None:
        for module in (*model.blocks, model):
            fully_shard(module)
    loader = DataLoader(recipe.train_data, batch_size=config["batch_size"], shuffle=True)
    loader = ray.train.torch.prepare_data_loader(loader)  # adds a DistributedSampler
    options = dict(config["optimizer"])
    optimizer = OPTIMIZERS[options.pop("name")](model.parameters(), **options)
    for epoch in range(config["epochs"]):
        if ray.train.get_context().get_world_size() > 1:
            loader.sampler.set_epoch(epoch)
        for batch in loader:
            loss = recipe.loss(model, batch)
            optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
        if config["report"]:
            ray.train.report({"epoch": epoch, "loss": loss.item()})


def fit(config: dict[str, Any], *, workers: int, storage: str) -> None:
    """Run the loop on Ray Train."""
    TorchTrainer(
        train_loop,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=workers),
        run_config=ray.train.RunConfig(name="plain", storage_path=storage),
    ).fit()


if __name__ == "__main__":
    settings = json.loads(Path(sys.argv[1]).read_text())
    ray.init()
    fit(settings["config"], workers=settings["workers"], storage=settings["storage"])
