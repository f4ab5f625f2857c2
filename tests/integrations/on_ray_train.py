"""Train with Lightning and with Transformers on two workers of Ray Train; a script, so that Ray gets it by value."""

import sys
from pathlib import Path

from scaler.cluster.embedded import embedded_cluster


def loop(config: dict[str, str]) -> None:
    """Train with both libraries, in each worker."""
    from typing import Any

    import lightning.pytorch as pl
    import ray.train.lightning
    import torch
    from small_data import Data, job, network
    from torch.nn.functional import mse_loss
    from torch.utils.data import DataLoader
    from transformers import Trainer, TrainingArguments

    import scaler.integrations.lightning
    import scaler.integrations.transformers

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return mse_loss(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)

    fitted = scaler.integrations.lightning.ScalerCallback(job(), storage=config["lightning"])
    trainer = pl.Trainer(
        max_epochs=-1,
        devices="auto",
        accelerator="cpu",
        strategy=ray.train.lightning.RayDDPStrategy(),
        plugins=[ray.train.lightning.RayLightningEnvironment()],
        callbacks=[fitted],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    ray.train.lightning.prepare_trainer(trainer).fit(Module(), DataLoader(Data(), batch_size=4))

    class Regression(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": mse_loss(self.network(x), labels)}

    model = Regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    scaled = scaler.integrations.transformers.ScalerCallback(job(), storage=config["transformers"])
    arguments = TrainingArguments(
        output_dir=config["transformers"],
        per_device_train_batch_size=4,
        num_train_epochs=3,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    data = [{"x": x, "labels": y} for x, y in (Data()[index] for index in range(len(Data())))]
    Trainer(model, arguments, train_dataset=data, callbacks=[scaled], optimizers=scaled.optimizers(optimizer)).train()


def main(folder: Path) -> None:
    with embedded_cluster(verbose=False):
        import ray.train
        from ray.train.torch import TorchTrainer

        TorchTrainer(
            loop,
            train_loop_config={name: str(folder / name) for name in ("lightning", "transformers")},
            scaling_config=ray.train.ScalingConfig(num_workers=2),
            run_config=ray.train.RunConfig(storage_path=str(folder / "ray")),
        ).fit()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
