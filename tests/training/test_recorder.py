"""What a worker records of its steps and of the pauses between them, and how steps are merged."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_runs import Kept, events_of, in_this_process, make_job, make_recipe, records_of, run, untimed

from scaler.metrics.events import WorkerEnded
from scaler.metrics.record import Record
from scaler.training import clock as clock_module
from scaler.training import device as device_module
from scaler.training.clock import CpuClock, CudaClock
from scaler.training.device import describe_device
from scaler.training.hand_over import HandOverInterval
from scaler.training.memory import memory_limit_gib
from scaler.training.recorder import Recorder, merge_steps


def record(step: int, **given: Any) -> Record:
    values = {
        "attempt": 0, "rank": 1, "step": step, "samples_seen": 32 * step, "progress": 32.0 * step, "lr": 0.1 + step,
        "lr_planned": 0.1 + step, "samples": 16, "loss": 1.0, "step_time_s": 0.5, "data_wait_s": 0.125,
        "compute_s": 0.25, "sync_wait_s": 0.0625, "grad_norm": 3.0 + step, "peak_memory_gib": 1.0 + step,
        "grad_signal": None, "grad_variance": None, "noise_scale": None, "cpu_s": 0.25,
    }  # fmt: skip
    return Record(**{**values, **given})


@pytest.mark.parametrize(
    ("cost_s", "steps", "reason"),
    [
        (0.0, 4, "once a second, at 0.25 s a step"),
        (0.05, 4, "a twentieth of a second is worth it"),
        (0.16, 12, "every 3.2 s, of which it is a twentieth"),
        (9.0, 20, "every 5 s, so that a request to stop is read"),
    ],
)
def test_workers_that_are_slow_to_agree_hand_over_less_often(cost_s: float, steps: int, reason: str) -> None:
    interval = HandOverInterval()
    for _ in range(3):  # it grows at most tenfold
        interval.set_next(0.25, cost_s=cost_s)
    assert interval.steps == steps, reason


def test_merged_steps_are_sums_means_and_the_first_of_them() -> None:
    steps = [
        record(4, loss=1.0, samples=16),
        record(5, loss=None, samples=0, evaluation_s=2.0),
        record(6, loss=3.0, samples=48, checkpoint_s=1.0, grad_signal=0.5, grad_variance=8.0, noise_scale=16.0),
    ]
    assert merge_steps(steps, 3) == [
        record(
            4,
            loss=2.5,
            samples=64,
            step_time_s=1.5,
            data_wait_s=0.375,
            compute_s=0.75,
            sync_wait_s=0.1875,
            cpu_s=0.75,
            evaluation_s=2.0,
            checkpoint_s=1.0,
            peak_memory_gib=7.0,
            grad_signal=0.5,
            grad_variance=8.0,
            noise_scale=16.0,
            steps=3,
        )
    ]


def test_the_last_of_merged_records_stands_for_what_is_left() -> None:
    merged = merge_steps([record(step) for step in range(7)], 3)
    assert [(row.step, row.steps) for row in merged] == [(0, 3), (3, 3), (6, 1)]
    assert merge_steps([], 3) == []


def test_shares_without_samples_and_unknown_cpu_times_stay_unknown() -> None:
    (merged,) = merge_steps([record(step, loss=None, samples=0, cpu_s=None) for step in (0, 1)], 2)
    assert (merged.loss, merged.samples, merged.cpu_s) == (None, 0, None)


class Ticking:
    """A clock with times set by a test."""

    now, is_behind = 0.0, True

    def mark(self) -> float:
        return self.now

    def between(self, start: Any, end: Any) -> float:
        return float(end - start)

    def peak_memory_gib(self) -> float:
        return 1.5

    def utilization_pct(self) -> float:
        return 40.0


def test_pauses_after_the_last_record_are_reported_when_the_attempt_ends(tmp_path: Path) -> None:
    clock, around = Ticking(), Kept(1, 2, str(tmp_path))
    recorder = Recorder(around, clock)
    clock.now = 3.0
    recorder.add_pause("evaluation_s")
    clock.now = 4.0
    recorder.add_pause("checkpoint_s")
    clock.now = 4.5
    recorder.begin()
    recorder.end_attempt()
    recorder.hand_over(samples_seen=0)
    (ended,) = events_of({"events": around.events}, "worker_ended")
    assert ended == WorkerEnded(time=0.0, attempt=0, rank=1, evaluation_s=3.0, checkpoint_s=1.0)
    recorder.end_attempt()
    recorder.hand_over(samples_seen=0)
    assert around.events[-1].evaluation_s == 0.0, "it is reported once"


def test_every_second_between_two_steps_has_an_owner(tmp_path: Path) -> None:
    """Steps, evaluations and checkpoints add up to the time of the training, and no time is counted twice."""
    job = make_job(per_worker_batch_size=16, train={"epochs": 4, "eval_every": {"epochs": 1}})
    training, around = in_this_process(tmp_path, make_recipe(), job)
    clock = CpuClock()
    began = clock.mark()
    training.run()
    wall_s = clock.between(began, clock.mark())
    wall_s -= next(event.seconds for event in around.events if event.kind == "tried_out")  # is start-up
    ended = next(event for event in around.events if event.kind == "worker_ended")
    evaluation_s = sum(row.evaluation_s for row in around.records) + ended.evaluation_s
    checkpoint_s = sum(row.checkpoint_s for row in around.records) + ended.checkpoint_s
    steps_s = sum(row.step_time_s for row in around.records)
    assert 0.9 * wall_s < steps_s + evaluation_s + checkpoint_s <= wall_s
    assert sum(row.evaluation_s > 0 for row in around.records) == 3, "the fourth is after the last record"
    evaluated_s = sum(event.seconds for event in around.events if event.kind == "evaluated")
    assert evaluated_s <= evaluation_s
    assert ended.evaluation_s > 0
    assert ended.checkpoint_s > 0


class Behind(CpuClock):
    """The CPU's clock, with the recorder's way of a GPU: numbers are copied together when they are handed over."""

    is_behind = True


@pytest.mark.parametrize("weighted", [False, True])
def test_numbers_that_are_copied_together_are_those_of_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weighted: bool
) -> None:
    def loss(model: Any, batch: Any) -> Any:
        losses = torch.nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        return (losses.sum(), (batch[1] + 1).sum()) if weighted else losses.mean()

    found = []
    for clock in (CpuClock, Behind):
        monkeypatch.setattr("scaler.training.loop.clock_for", lambda device, clock=clock: clock())
        folder = tmp_path / clock.__name__
        folder.mkdir()
        torch.manual_seed(0)
        job = make_job(per_worker_batch_size=16, grad_accum_steps=2)
        training, around = in_this_process(folder, make_recipe(loss=loss), job)
        training.run()
        found.append(untimed({"records": [tuple(row) for row in around.records]}))
    assert found[0] == found[1]


def test_cpu_time_is_that_of_the_steps(tmp_path: Path) -> None:
    training, around = in_this_process(tmp_path, make_recipe(), make_job(per_worker_batch_size=16))
    training.run()
    cpu_s = [row.cpu_s for row in around.records if row.cpu_s is not None]
    assert len(cpu_s) == len(around.records)
    assert 0 < sum(cpu_s) <= 2.0 * sum(row.step_time_s for row in around.records)
    assert {row.gpu_pct for row in around.records} == {None}


class Overrun(Kept):
    """A worker context in which rank 1 wants records of more steps from its second hand-over on."""

    hand_overs = 0

    def wanted_steps(self, steps: int) -> int:
        self.hand_overs += 1
        return 2 * steps if self.hand_overs >= 2 and self.rank == self.world_size - 1 else steps


def test_every_worker_merges_the_same_steps_when_one_of_them_wishes_it(tmp_path: Path) -> None:
    job = make_job(per_worker_batch_size=4, train={"epochs": 6, "eval_every": {"epochs": 1}})
    ranks = run(tmp_path, 2, job, context=Overrun)
    first, second = ([(row.samples_seen, row.steps) for row in records_of([rank])] for rank in ranks)
    assert first == second
    thinned = events_of(ranks[0], "records_thinned")
    assert thinned
    assert thinned[0].steps == 2
    assert not events_of(ranks[1], "records_thinned"), "rank 0 tells it"
    start = thinned[0].samples_seen
    assert {steps for seen, steps in first if seen < start} == {1}
    assert max(steps for seen, steps in first if seen >= start) >= 2
    everything = run(tmp_path, 2, job)
    assert sum(steps for _, steps in first) == len(records_of(everything[:1])), "no step is lost"
    for kept, whole in zip(ranks, everything, strict=True):
        assert kept["weights"] == whole["weights"], "training does not notice"
        assert sum(row.samples for row in records_of([kept])) == sum(row.samples for row in records_of([whole]))


def test_the_guard_sees_every_loss_of_merged_steps(tmp_path: Path) -> None:
    training, around = in_this_process(tmp_path, make_recipe(), make_job(per_worker_batch_size=16))
    training._run.recorder.steps_per_record = 8
    training.run()
    assert max(row.steps for row in around.records) == 8
    assert sum(row.steps for row in around.records) == training.plan.total_steps


def test_a_gpu_s_use_is_what_nvml_says_and_unknown_after_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [37, ModuleNotFoundError("nvidia-ml-py does not seem to be installed"), 50]

    def say(device: torch.device) -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return int(answer)

    monkeypatch.setattr(clock_module.torch.cuda, "utilization", say)
    clock = CudaClock(torch.device("cuda", 0))
    assert [clock.utilization_pct() for _ in range(3)] == [37.0, None, None]
    assert answers == [50], "it is not asked again"
    assert CpuClock().utilization_pct() is None


def test_a_gpu_is_described_by_its_name_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    about = SimpleNamespace(name="NVIDIA A100-SXM4-80GB", total_memory=80 * 2**30)
    monkeypatch.setattr(device_module.torch.cuda, "get_device_properties", lambda device: about)
    about = describe_device(torch.device("cuda", 1))
    assert about == {"device": "NVIDIA A100-SXM4-80GB", "memory_limit_gib": 80.0}


@pytest.mark.parametrize(
    ("cgroup", "files", "gib"),
    [
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/memory.max": "536870912"}, 0.5),
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/memory.max": "max", "sys/fs/cgroup/a/memory.max": "268435456"}, 0.25),
        ("0::/elsewhere\n", {"sys/fs/cgroup/memory.max": "536870912"}, 0.5),  # a container sees its own as the root
        ("4:memory:/a\n1:cpu:/\n", {"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "536870912"}, 0.5),
        ("4:memory:/\n", {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("", {}, None),
    ],
)
def test_memory_is_the_machine_s_or_what_the_cgroup_leaves_of_it(
    tmp_path: Path, cgroup: str, files: dict[str, str], gib: float | None
) -> None:
    machine = memory_limit_gib(tmp_path)
    assert machine > 0.5, "nothing there says otherwise"
    for name, text in {"proc/self/cgroup": cgroup, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_limit_gib(tmp_path) == (machine if gib is None else gib)
