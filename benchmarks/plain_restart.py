"""The loop that chaos.py compares with: a Ray Train loop as in Ray's tutorials, with checkpoints every 5 epochs.

``python plain_restart.py CONFIG.json`` runs it with Ray's default settings; a killed worker restarts the group.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from noted_digits import build
from ray.train.torch import TorchTrainer
from torch.utils.data import DataLoader


def train_loop(config: dict[str, Any]) -> None:
    """Train as in the tutorials, from the last reported checkpoint on."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipe = build(notes=config["notes"])
    model = ray.train.torch.prepare_model(recipe.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    loader = DataLoader(recipe.train_data, batch_size=16, shuffle=True, collate_fn=recipe.collate)
    loader = ray.train.torch.prepare_data_loader(loader)
    begin, checkpoint = 0, ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / "state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        begin = state["epoch"] + 1
    for epoch in range(begin, config["epochs"]):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            loss = recipe.loss(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch % 5 == 4:
            with tempfile.TemporaryDirectory() as folder:
                if ray.train.get_context().get_world_rank() == 0:
                    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
                    torch.save(state, Path(folder) / "state.pt")
                    ray.train.report({"loss": loss.item()}, checkpoint=ray.train.Checkpoint.from_directory(folder))
                else:
                    ray.train.report({"loss": loss.item()})


if __name__ == "__main__":
    settings = json.loads(Path(sys.argv[1]).read_text())
    ray.init()
    TorchTrainer(
        train_loop,
        train_loop_config=settings["config"],
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        run_config=ray.train.RunConfig(
            name="plain",
            storage_path=settings["storage"],
            failure_config=ray.train.FailureConfig(max_failures=20),
        ),
    ).fit()
