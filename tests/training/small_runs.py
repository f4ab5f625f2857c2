"""Small recipes and jobs, and trainings of them with the real loop, in this process or in several."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from groups import run_group
from kept import NEVER_STOP, Kept
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from scaler import Recipe
from scaler.errors import ScalerError
from scaler.job import Job, parse_job
from scaler.metrics.events import Event
from scaler.metrics.record import Record
from scaler.plan import Plan, make_plan
from scaler.runs import RunFolder
from scaler.training.checkpoints.files import complete_checkpoints, find_checkpoint
from scaler.training.checkpoints.state import load_checkpoint
from scaler.training.hand_over import HandOverInterval
from scaler.training.loop import Training
from scaler.training.model.names import named_parameters
from scaler.training.model.sharding import whole
from scaler.training.process_group import is_lost_peer
from scaler.training.randomness import seed_everything
from scaler.training.worker_context import AttemptEnd

SAMPLES = 250  # no multiple of any batch
TIMES = (
    "attempt", "step_time_s", "data_wait_s", "compute_s", "sync_wait_s", "evaluation_s", "checkpoint_s", "cpu_s",
    "peak_memory_gib",
)  # fmt: skip


class EveryStep(HandOverInterval):
    """Hands over at every step, so that a test decides where an attempt ends."""

    def set_next(self, step_time_s: float, *, cost_s: float) -> None:
        super().set_next(step_time_s, cost_s=cost_s)
        self._due = 1


class Seen(Dataset[Any]):
    """The same data one sample after the other; records each index that is read."""

    def __init__(self, tensors: tuple[Tensor, Tensor]) -> None:
        self.tensors, self.asked = tensors, []

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.asked.append(index)
        return self.tensors[0][index], self.tensors[1][index]


class Loss:
    """Cross entropy that records the size of each batch.

    Args:
        nan_from, nan_calls: the first call that returns nan, and the number of such calls.
        factor: multiplies the loss.
    """

    def __init__(self, *, nan_from: int = 10**9, nan_calls: int = 1, factor: float = 1.0) -> None:
        self.sizes: list[int] = []
        self._nan_from, self._nan_calls, self._factor = nan_from, nan_calls, factor
        self.is_counted = nan_from < 10**9

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        call = len(self.sizes)
        self.sizes.append(len(batch[1]))
        broken = self._nan_from <= call < self._nan_from + self._nan_calls
        return nn.functional.cross_entropy(model(batch[0]), batch[1]) * (float("nan") if broken else self._factor)


def make_recipe(
    *, counted: bool = False, loss: Any = None, norm: bool = False, double: bool = False, noisy: bool = False
) -> Recipe:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(SAMPLES, 6, generator=generator)
    labels = (inputs.sum(1) + 4 * noisy * torch.randn(SAMPLES, generator=generator) > 0).long()
    inputs = inputs.double() if double else inputs
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16) if norm else nn.Tanh(), nn.Linear(16, 2))
    is_counted = counted or getattr(loss, "is_counted", False)  # what counts its calls or samples is not probed
    data: Dataset[Any] = Seen((inputs, labels)) if counted else TensorDataset(inputs, labels)
    return Recipe(
        model=model.double() if double else model,
        train_data=data,
        eval_data=TensorDataset(inputs[:101], labels[:101]),
        loss=loss or (lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1])),
        loss_over="micro_batch" if is_counted else "samples",
        evaluate=lambda model, batch: {
            "accuracy": (model(batch[0]).argmax(1) == batch[1]).float().mean(),
            "loss": nn.functional.cross_entropy(model(batch[0]), batch[1]),
        },
    )


def make_job(**given: Any) -> Job:
    """Return a small job. Sections replace or extend the default ones; every other key belongs to ``scale``."""
    reference, train = given.pop("reference", {}), given.pop("train", {})
    length = {} if {"samples", "steps"} & set(train) else {"epochs": 3}
    known = ("schedule", "failures", "checkpoint", "groups", "layer_decay")
    sections = {key: given.pop(key) for key in known if key in given}
    return parse_job(
        {
            "name": "t",
            "recipe": "r:build",
            "reference": {
                "global_batch_size": 16,
                "lr": 0.05,
                "optimizer": {"name": "sgd", "momentum": 0.9},
                **reference,
            },
            "scale": given,
            "schedule": {"name": "cosine", "warmup": {"epochs": 1}},
            "train": {**length, "num_samples": SAMPLES, **train},
            **sections,
        },
        source="job",
    )


def shapes_of(recipe: Recipe) -> dict[str, int]:
    return {name: parameter.numel() for name, parameter in named_parameters(recipe.model).items()}


def plan_of(job: Job, world_size: int = 1) -> Plan:
    return make_plan(job, world_size, parameters=shapes_of(make_recipe()))


def in_this_process(folder: Path, recipe: Recipe, job: Job, **options: Any) -> tuple[Training, Kept]:
    """Return a training of one worker in this process, and its context."""
    torch.set_num_threads(1)  # small models: more threads than one only wait for each other
    around = Kept(0, 1, str(folder), **options)
    return Training(recipe, job, make_plan(job, 1, parameters=shapes_of(recipe)), around), around


def weights_of(model: nn.Module) -> list[float]:
    return torch.cat([whole(parameter).detach().flatten() for parameter in model.parameters()]).tolist()


def train(rank: int, world_size: int, folder: str, values: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Train one rank; return everything that a test may check. Resumes from the newest checkpoint, if there is one.

    Options, beside those of ``make_recipe``: ``stop_after`` (records), ``broken`` (of ``Loss``), ``broken_rank`` (the
    only rank where the loss is broken), ``context`` (a class instead of ``Kept``).
    """
    torch.set_num_threads(1)
    if options.get("counted"):  # comparing the data would ask for some samples once more
        values = {**values, "train": {**values["train"], "check_data": False}}
    job = parse_job(values, source="job")
    seed_everything(job.train.seed)
    options = dict(options)
    stop_after, broken = options.pop("stop_after", NEVER_STOP), options.pop("broken", {})
    kind = options.pop("context", Kept)
    loss = Loss(**broken) if rank == options.pop("broken_rank", rank) else Loss()
    loss.is_counted = bool(broken)
    recipe = make_recipe(loss=loss, **options)
    around = kind(rank, world_size, folder, stop_after=stop_after)
    training = Training(recipe, job, make_plan(job, world_size, parameters=shapes_of(recipe)), around)
    if stop_after != NEVER_STOP:
        training._hand_over.interval = EveryStep()
    saved, _ = find_checkpoint(around.folder)
    if saved is not None:
        training.restore(saved)
    error, finished = None, False
    try:
        finished = training.run() is AttemptEnd.FINISHED
    except ScalerError as raised:
        error = f"{type(raised).__name__}: {raised}"
    except RuntimeError as raised:
        if not is_lost_peer(raised):
            raise
        error = "a peer was lost"
    return {
        "finished": finished,
        "error": error,
        "records": [tuple(record) for record in around.records],
        "events": around.events,
        "weights": weights_of(recipe.model),
        "buffers": [buffer.tolist() for buffer in recipe.model.buffers()],
        "asked": recipe.train_data.asked if isinstance(recipe.train_data, Seen) else None,
        "sizes": loss.sizes,
    }


def new_folder(tmp_path: Path) -> Path:
    folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    return folder


def run(
    tmp_path: Path, world_size: int, job: Job, *, folder: Path | None = None, errors: bool = False, **options: Any
) -> list[dict[str, Any]]:
    """Train a group, in a new folder unless one is given; it must not fail unless ``errors``."""
    arguments = (str(folder or new_folder(tmp_path)), job.model_dump(), options)
    ranks = [train(0, 1, *arguments)] if world_size == 1 else run_group(train, world_size, *arguments)
    assert errors or all(rank["finished"] or "stop_after" in options for rank in ranks), ranks[0]["error"]
    return ranks


def run_in_attempts(tmp_path: Path, job: Job, *, most: int = 200) -> dict[str, Any]:
    """Train one worker that is stopped after every step and resumed by a new one; return all attempts as one run."""
    folder, attempts = new_folder(tmp_path), []
    while not (attempts and attempts[-1]["finished"]):
        attempts.append(run(tmp_path, 1, job, folder=folder, stop_after=1)[0])
        assert len(attempts) < most
    return {
        "records": [record for attempt in attempts for record in attempt["records"]],
        "events": [event for attempt in attempts for event in attempt["events"]],
        "weights": attempts[-1]["weights"],
        "attempts": len(attempts),
        "folder": folder,
    }


def records_of(ranks: Iterable[dict[str, Any]]) -> list[Record]:
    return [Record(*record) for rank in ranks for record in rank["records"]]


def untimed(rank: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a rank's records without the columns that differ between runs."""
    records = [record._asdict() for record in records_of([rank])]
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def events_of(rank: dict[str, Any], *kinds: str) -> list[Event]:
    """Return a rank's events of some kinds, with ``time`` and ``seconds`` set to 0, so that runs can be compared."""
    found = [event for event in rank["events"] if event.kind in kinds]
    return [replace(event, **{name: 0.0 for name in ("time", "seconds") if hasattr(event, name)}) for event in found]


def by_step(ranks: Iterable[dict[str, Any]]) -> list[list[Record]]:
    """Return the records of each step, over ranks."""
    steps: dict[tuple[int, int], list[Record]] = {}
    for record in records_of(ranks):
        steps.setdefault((record.attempt, record.step), []).append(record)
    return [steps[step] for step in sorted(steps)]


def step_losses(ranks: Iterable[dict[str, Any]]) -> list[float]:
    """Return the mean loss of each step, over ranks, weighted by samples."""
    return [
        sum(r.loss * r.samples for r in step if r.loss is not None) / sum(r.samples for r in step)
        for step in by_step(ranks)
    ]


def accuracies(ranks: Sequence[dict[str, Any]]) -> list[float]:
    return [event.values["accuracy"] for event in ranks[0]["events"] if event.kind == "evaluated"]


def plain(value: Any) -> Any:
    """Return a state with lists for tensors, so that states can be compared exactly."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def checkpoints(folder: Path) -> dict[int, dict[str, Any]]:
    """Return the states in a run's checkpoints by their ``samples_seen``, ascending, read as a restart reads them."""
    there = RunFolder(str(folder))
    return {samples: load_checkpoint(there, samples) for samples in complete_checkpoints(there)}


def checkpoint(folder: Path) -> dict[str, Any]:
    """Return the newest checkpoint's state, read as a restart reads it."""
    there = RunFolder(str(folder))
    return load_checkpoint(there, complete_checkpoints(there)[-1])
