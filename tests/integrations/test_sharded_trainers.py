"""Other trainers with sharded or parallel models: samples count once, at the learning rates of the plan.

accelerate shards on GPUs only; the trainings here let it do so on CPUs, too.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin, ParallelismConfig
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType
from groups import run_group
from small_data import SAMPLES, Data, announce, job, network, records_of
from small_texts import Texts, language_model
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, DistributedSampler
from transformers import TrainingArguments

import scaler
from scaler.errors import TrainingError
from scaler.integrations.accelerate import prepare
from scaler.integrations.start import mesh_of
from scaler.integrations.transformers import ScaledTrainer, ScalerCallback

STEP = 8  # samples in a step, however many processes train on samples of their own


FIRST = 40  # samples of a first attempt


def job_of_step(**train: Any) -> Any:
    return job(scale={"global_batch_size": STEP, "rule": "linear"}, train={"epochs": 3, **train})


@contextmanager
def sharding_on_cpus() -> Iterator[None]:
    """Let accelerate take CPUs for devices on which it can shard a model."""
    init = AcceleratorState.__init__

    def patched(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            for state in (PartialState, AcceleratorState):
                state._shared_state["distributed_type"] = DistributedType.FSDP
            AcceleratorState._shared_state["fsdp_plugin"] = fsdp_plugin

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    with (
        patch.object(AcceleratorState, "__init__", patched),
        patch.object(ParallelismConfig, "_validate_accelerator", lambda *_: None),
    ):
        yield


def with_accelerate(
    folder: str,
    parallelism: ParallelismConfig | None = None,
    *,
    load: str | None = None,
    save: str | None = None,
    **changes: Any,
) -> dict[str, Any]:
    with sharding_on_cpus():
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="no_wrap")
        accelerator = Accelerator(cpu=True, fsdp_plugin=plugin, parallelism_config=parallelism)
        model = network()  # not tensor parallel: accelerate 1.15 prepares no such model beside Transformers 5.24
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        shares = 4 if parallelism is None else parallelism.data_parallel_size
        loader = DataLoader(Data(), batch_size=STEP // shares)
        run, model, optimizer, loader = prepare(
            accelerator, job_of_step(**changes), model, optimizer, loader, storage=folder
        )
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        first = loader
        if load is not None:
            accelerator.load_state(load)
            first = run.prepare(accelerator.skip_first_batches(loader.loader, run.samples_seen // STEP))
        while not run.is_over:
            for x, y in first:
                loss = mse_loss(model(x), y)
                scaler.record(loss=loss)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            first = loader
        if save is not None:
            accelerator.save_state(save)
        saved = run.state_dict()["run"]
        run.finish()
        return {"run": saved, "data_parallel": run.data_parallel_size}


def with_lightning(folder: str) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lightning.pytorch as pl
        from lightning.pytorch.strategies import ModelParallelStrategy

        from scaler.integrations.lightning import ScalerCallback

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def configure_model(self) -> None:
            plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
            parallelize_module(self.network, self.device_mesh["tensor_parallel"], plan)
            fully_shard(self.network, mesh=self.device_mesh["data_parallel"])

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return mse_loss(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)

    scaled = ScalerCallback(job_of_step(), storage=folder)
    trainer = pl.Trainer(
        max_epochs=-1,
        callbacks=[scaled],
        accelerator="cpu",
        devices=4,
        strategy=ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=2),
        use_distributed_sampler=False,  # it would shuffle
        accumulate_grad_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    rank = int(trainer.global_rank) // 2
    loader = DataLoader(Data(), batch_size=2, sampler=DistributedSampler(Data(), 2, rank, shuffle=False))
    trainer.fit(Module(), loader)
    assert scaled.run is not None
    return {"run": scaled.run.state_dict()["run"], "data_parallel": scaled.run.data_parallel_size}


def with_transformers(folder: str, *, checkpoint: str | None = None, **changes: Any) -> dict[str, Any]:
    """Train a language model with fsdp; checkpoints are written every five steps."""
    with sharding_on_cpus():
        scaled = ScalerCallback(job_of_step(**changes), storage=folder)
        arguments = TrainingArguments(
            output_dir=f"{folder}/checkpoints",
            per_device_train_batch_size=STEP // 4,
            num_train_epochs=3,
            save_steps=5,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            train_sampling_strategy="sequential",
            dataloader_pin_memory=False,
            fsdp=True,
            fsdp_config={"fsdp_version": 2, "transformer_layer_cls_to_wrap": ["GPT2Block"]},
        )
        trainer = ScaledTrainer(
            language_model(),
            arguments,
            train_dataset=Texts(),
            callbacks=[scaled],
            optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.02, "momentum": 0.9}),
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        assert all(isinstance(parameter, DTensor) for parameter in trainer.model.parameters())
    (run,) = Path(folder).glob("other-*")
    return {"run": str(run), "data_parallel": 4}


def in_four(rank: int, world_size: int, folder: str) -> dict[str, Any]:
    announce(rank, world_size)
    ends_early = {"stop_after": {"samples": FIRST}}
    with_accelerate(folder, save=f"{folder}/accelerate", **ends_early)
    with_transformers(f"{folder}/continued", **ends_early)
    return {
        "accelerate, fsdp": with_accelerate(folder),
        "accelerate, hsdp": with_accelerate(folder, ParallelismConfig(dp_replicate_size=2, dp_shard_size=2)),
        "accelerate, tensor": with_accelerate(folder, ParallelismConfig(dp_shard_size=2, tp_size=2)),
        "lightning, tensor": with_lightning(folder),
        "transformers": with_transformers(f"{folder}/transformers"),
        "accelerate, continued": with_accelerate(folder, load=f"{folder}/accelerate"),
        "transformers, continued": with_transformers(
            f"{folder}/continued", checkpoint=f"{folder}/continued/checkpoints/checkpoint-5"
        ),
    }


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_group(in_four, 4, str(tmp_path_factory.mktemp("four")))


@pytest.fixture(scope="module")
def losses() -> list[float]:
    """The losses of the whole steps of an epoch, in one process in plain torch."""
    model, data = network(), Data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    found = []
    for step in range(SAMPLES // STEP):
        optimizer.zero_grad()
        loss = mse_loss(model(data.x[step * STEP :][:STEP]), data.y[step * STEP :][:STEP])
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def rows_of_steps(run: str) -> dict[int, list[dict[str, Any]]]:
    """Return the records of each step, by the samples before it."""
    steps: dict[int, list[dict[str, Any]]] = {}
    for row in records_of(run):
        steps.setdefault(row["samples_seen"], []).append(row)
    return steps


@pytest.mark.parametrize("trainer", ["accelerate", "transformers"])
def test_a_sharded_training_continues(four: list[dict[str, Any]], trainer: str) -> None:
    """With the losses of the same training in one attempt."""
    kind = {"accelerate": "accelerate, fsdp", "transformers": "transformers"}[trainer]
    run, whole = four[0][f"{trainer}, continued"]["run"], four[0][kind]["run"]
    mine, same = rows_of_steps(run), rows_of_steps(whole)
    assert mine.keys() == same.keys()
    for seen, rows in mine.items():
        assert [row["lr"] for row in rows] == [row["lr"] for row in same[seen]]
        if seen < SAMPLES:  # Transformers and accelerate shuffle nothing in the first epoch
            assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in same[seen]], rel=1e-5)
    report = scaler.read_run(run).report
    assert [row.start_samples for row in report.attempts] == [0, FIRST]
    assert report.lr_audit.as_planned
    assert report.totals.samples_seen == sum(row["samples"] for row in records_of(run)) == 3 * 96 - 16


@pytest.mark.parametrize(
    ("kind", "shares", "samples"),
    [
        ("accelerate, fsdp", 4, 96),  # which fills up the last steps of an epoch of 90 samples
        ("accelerate, hsdp", 4, 96),
        ("accelerate, tensor", 2, 96),
        ("lightning, tensor", 2, 90),
    ],
)
def test_a_sharded_training_counts_samples_once(
    four: list[dict[str, Any]], losses: list[float], kind: str, shares: int, samples: int
) -> None:
    run = four[0][kind]["run"]
    assert {each[kind]["data_parallel"] for each in four} == {shares}
    rows = records_of(run)
    report = scaler.read_run(run).report
    assert report.totals.samples_seen == sum(row["samples"] for row in rows) == min(3 * samples, 3 * 96 - 16)
    assert report.lr_audit.as_planned
    assert report.lr_audit.checked_steps == report.totals.steps
    for step, loss in enumerate(losses):
        mine = [row for row in rows if row["step"] == step]
        assert len({row["grad_norm"] for row in mine}) == 1
        counted = [row for row in mine if row["loss"] is not None]
        assert len(counted) == shares
        assert sum(row["samples"] for row in counted) == STEP
        assert sum(row["loss"] for row in counted) / shares == pytest.approx(loss, rel=1e-5)
        assert {row["lr"] for row in mine} == {0.02}


def test_sequence_parallelism_without_a_mesh_is_refused() -> None:
    state = SimpleNamespace(device_mesh=None, parallelism_config=SimpleNamespace(sp_size=2))
    with pytest.raises(TrainingError, match=r"ParallelismConfig\(sp_size=2\) by DeepSpeed has no mesh"):
        mesh_of(state)
