"""Run every path of scaler that needs a GPU, on one GPU in less than eight minutes, and print a table.

Each row says what was done, what is expected, what was measured, and whether the two agree. With ``--device cpu`` the
paths that exist on a CPU run in seconds, with a small model; the others say "needs a GPU". If the environment variable
OUT names a folder, the rows are also written there as ``on_gpu.json``.

Run: python benchmarks/on_gpu.py [--device cuda|cpu] [--only NAME ...]
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from math import isfinite
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from on_gpu_recipe import build
from table import table
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import scaler
from scaler.job import Job, parse_job
from scaler.metrics.events import Event, MicroBatchHalved, of_type
from scaler.metrics.reader import read_events, read_records
from scaler.runs import RunFolder
from scaler.training.checkpoints.files import complete_checkpoints
from scaler.training.checkpoints.state import load_checkpoint

HERE = Path(__file__).resolve().parent
STEPS, OVERFLOW_AT = 60, 3
NEEDS_A_GPU = "needs a GPU"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the trainings are."""

    width: int
    depth: int
    batch: int
    channels: int
    conv_batch: int


SIZES = {
    "cuda": Sizes(width=1024, depth=4, batch=4096, channels=128, conv_batch=512),
    "cpu": Sizes(width=32, depth=2, batch=32, channels=8, conv_batch=16),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one check found; ``ok`` is None where it does not apply."""

    what: str
    expected: str
    measured: str
    ok: bool | None


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One training: its folder, records in the order of steps, and events."""

    folder: RunFolder
    records: Sequence[Mapping[str, Any]]
    events: Sequence[Event]
    mfu: float | None

    @property
    def loss(self) -> float:
        """The mean of the last ten steps."""
        return fmean(record["loss"] for record in self.records[-10:])

    @property
    def samples_per_s(self) -> float:
        """Speed of a worker in the second half of its steps, by the device's own clock."""
        late = self.records[len(self.records) // 2 :]
        return sum(record["samples"] for record in late) / sum(record["step_time_s"] for record in late)

    @property
    def memory_gib(self) -> float:
        """Peak of the memory."""
        return max(record["peak_memory_gib"] for record in self.records)

    def state(self) -> dict[str, Any]:
        """The newest checkpoint."""
        return load_checkpoint(self.folder, complete_checkpoints(self.folder)[-1])


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The device, and the trainings that several checks compare with."""

    device: str
    storage: Path
    kept: dict[str, Trained] = field(default_factory=dict)

    @property
    def is_gpu(self) -> bool:
        """Whether there is a GPU."""
        return self.device == "cuda"

    def job(self, **train: Any) -> Job:
        """Return the job of the blocks; ``train`` are keys of its section."""
        sizes = SIZES[self.device]
        recipe = {"width": sizes.width, "depth": sizes.depth, "samples": STEPS * sizes.batch}
        return self._job(recipe, sizes.batch, train)

    def images(self, **train: Any) -> Job:
        """Return the job of the convolutions."""
        sizes = SIZES[self.device]
        recipe = {"width": sizes.channels, "depth": 4, "samples": STEPS * sizes.conv_batch, "convolutions": True}
        return self._job(recipe, sizes.conv_batch, train)

    def _job(self, recipe: Mapping[str, Any], batch: int, train: Mapping[str, Any]) -> Job:
        return parse_job(
            {
                "name": "on-gpu",
                "recipe": "on_gpu_recipe:build",
                "recipe_args": dict(recipe),
                "reference": {
                    "global_batch_size": batch,
                    "lr": 0.02,
                    "optimizer": {"name": "sgd", "momentum": 0.9},
                },
                "scale": {"num_workers": 1, "global_batch_size": batch},
                "train": {"epochs": 1, "noise_scale_every": None, **train},
                "resources": {"gpus_per_worker": 1 if self.is_gpu else 0},
                "storage": str(self.storage),
            },
            source="on_gpu.py",
        )

    def train(self, job: Job, *overrides: str, workers: int = 1, address: str | None = "none") -> Trained:
        """Run a job and return what it left."""
        if self.is_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        run = scaler.submit(
            job, workers=workers, address=address, overrides=overrides, storage=self.storage, recipe_folder=HERE
        )
        return trained(run)

    def fp32(self) -> Trained:
        """Return the training that others are compared with."""
        if "fp32" not in self.kept:
            self.kept["fp32"] = self.train(self.job())
        return self.kept["fp32"]


def trained(run: Any) -> Trained:
    records = [row for row in read_records(run.folder).to_pylist() if row["rank"] == 0]
    mfu = run.report.flops.mfu if run.report.flops is not None else None
    records.sort(key=lambda row: row["samples_seen"])
    return Trained(folder=run.folder, records=records, events=read_events(run.folder), mfu=mfu)


def is_near(one: float, other: float, *, share: float = 0.1) -> bool:
    return abs(one - other) <= share * max(abs(one), abs(other)) + 0.02


def losses(found: Trained, base: Trained) -> str:
    return f"loss {found.loss:.3f}, fp32 {base.loss:.3f}; {found.samples_per_s / base.samples_per_s:.2f}x the speed"


def fp32(bench: Bench) -> Row:
    """Train in fp32, on the GPU if there is one."""
    base = bench.fp32()
    first = fmean(record["loss"] for record in base.records[:3])
    device = next(event.device for event in base.events if event.kind == "worker_started")
    return Row(
        what="fp32",
        expected="the loss falls; times and memory are the device's",
        measured=f"{device}: loss {first:.3f} -> {base.loss:.3f}, {base.samples_per_s:,.0f} samples/s, "
        f"{base.memory_gib:.2f} GiB",
        ok=base.loss < 0.9 * first and all(record["step_time_s"] > 0 for record in base.records),
    )


def bf16(bench: Bench) -> Row:
    """Train in bf16."""
    found, base = bench.train(bench.job(precision="bf16")), bench.fp32()
    dtypes = {tensor.dtype for tensor in found.state()["model"].values()}
    return Row(
        what="bf16",
        expected="fp32's loss; weights in fp32",
        measured=f"{losses(found, base)}; weights {', '.join(map(str, dtypes))}",
        ok=is_near(found.loss, base.loss) and dtypes == {torch.float32},
    )


def fp16(bench: Bench) -> Row:
    """Train in fp16 with a gradient that overflows in one step."""
    job = bench.job(precision="fp16")
    found, base = bench.train(job, f"recipe_args.overflow_at={OVERFLOW_AT}"), bench.fp32()
    skipped = [record["step"] for record in found.records if not isfinite(record["grad_norm"])]
    scale = found.state()["scaler"]["scale"]
    return Row(
        what="fp16 with a skipped step",
        expected=f"step {OVERFLOW_AT} is skipped and the loss scale halved; fp32's loss",
        measured=f"skipped {skipped}, scale {scale:g} (first 65536); {losses(found, base)}",
        ok=OVERFLOW_AT in skipped and scale == 65536.0 / 2 ** len(skipped) and is_near(found.loss, base.loss),
    )


def tf32(bench: Bench) -> Row:
    """Train in fp32 with TF32, which only GPUs have."""
    what, expected = "tf32", "fp32's loss; faster than without"
    if not bench.is_gpu:
        return Row(what=what, expected=expected, measured=NEEDS_A_GPU, ok=None)
    off, on = bench.train(bench.job(tf32=False)), bench.train(bench.job(tf32=True))
    has_it = torch.cuda.get_device_capability()[0] >= 8
    return Row(
        what=what,
        expected=expected if has_it else "fp32's loss (this GPU has no TF32)",
        measured=f"loss {on.loss:.3f}, without {off.loss:.3f}; {on.samples_per_s / off.samples_per_s:.2f}x the speed",
        ok=is_near(on.loss, off.loss) and (on.samples_per_s > off.samples_per_s or not has_it),
    )


def compiled(bench: Bench) -> Row:
    """Train a compiled model, and load its checkpoint into a plain one."""
    choice: Any = True if bench.is_gpu else {"backend": "aot_eager"}  # inductor takes long on a CPU
    job = bench.job(compile=choice)
    found, base = bench.train(job), bench.fp32()
    plain, state = build(**job.recipe_args).model, found.state()["model"]
    names = list(plain.state_dict())
    plain.load_state_dict(state)
    return Row(
        what=f"compile: {'true' if choice is True else 'aot_eager, as inductor takes long on a CPU'}",
        expected="fp32's loss; plain names, which the plain model loads",
        measured=f"{losses(found, base)}; names {'plain' if list(state) == names else list(state)[:2]}",
        ok=is_near(found.loss, base.loss, share=0.02) and list(state) == names,
    )


def channels_last(bench: Bench) -> Row:
    """Train convolutions in both memory formats, in bf16 on a GPU."""
    precision = "bf16" if bench.is_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    plain, found = (bench.train(bench.images(precision=precision, channels_last=is_set)) for is_set in (False, True))
    return Row(
        what=f"channels_last ({precision})",
        expected="the same loss",
        measured=f"loss {found.loss:.3f}, without {plain.loss:.3f}; "
        f"{found.samples_per_s / plain.samples_per_s:.2f}x the speed",
        ok=is_near(found.loss, plain.loss, share=0.02),
    )


def activation_checkpointing(bench: Bench) -> Row:
    """Train with recomputed activations."""
    found, base = bench.train(bench.job(activation_checkpointing="auto")), bench.fp32()
    less = f"{found.memory_gib:.2f} GiB instead of {base.memory_gib:.2f}" if bench.is_gpu else f"memory {NEEDS_A_GPU}"
    return Row(
        what="activation checkpointing",
        expected="fp32's loss; less memory",
        measured=f"{losses(found, base)}; {less}",
        ok=is_near(found.loss, base.loss, share=0.02) and (not bench.is_gpu or found.memory_gib < base.memory_gib),
    )


def sharing(bench: Bench) -> Row:
    """Train with two workers on Ray that share one GPU; gloo sums the gradients."""
    what, expected = "2 workers share a GPU (Ray, gloo)", "fp32's loss on one worker, at the same global batch"
    if not bench.is_gpu:
        return Row(what=what, expected=expected, measured=NEEDS_A_GPU, ok=None)
    shares = "resources={gpus_per_worker: 0.5, cpus_per_worker: 1}"
    found, base = bench.train(bench.job(), shares, workers=2, address=None), bench.fp32()
    return Row(
        what=what,
        expected=expected,
        measured=losses(found, base),
        ok=is_near(found.loss, base.loss, share=0.02),
    )


def nccl(bench: Bench) -> Row:
    """Train with two workers and a GPU for each."""
    what, expected = "2 workers, each with a GPU (Ray, NCCL)", "fp32's loss on one worker, at the same global batch"
    if not bench.is_gpu or torch.cuda.device_count() < 2:
        return Row(what=what, expected=expected, measured="needs two GPUs", ok=None)
    found, base = bench.train(bench.job(), workers=2, address=None), bench.fp32()
    return Row(
        what=what, expected=expected, measured=losses(found, base), ok=is_near(found.loss, base.loss, share=0.02)
    )


def out_of_memory(bench: Bench) -> Row:
    """Limit torch's memory, so that the whole batch does not fit."""
    what, expected = "per_worker_batch_size: auto, out of memory", "the micro-batch is halved; fp32's loss"
    if not bench.is_gpu:
        return Row(what=what, expected=expected, measured=NEEDS_A_GPU, ok=None)
    base = bench.fp32()
    total_gib = torch.cuda.get_device_properties(0).total_memory / 2**30
    fixed_gib = 3 * 4 * sum(tensor.numel() for tensor in base.state()["model"].values()) / 2**30
    limit_gib = fixed_gib + 0.6 * (base.memory_gib - fixed_gib)  # weights, gradients and momentum, and 0.6 of the rest
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(limit_gib / total_gib)
    try:
        found = bench.train(bench.job(), "scale.per_worker_batch_size=auto")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    halved = [event.per_worker_batch_size for event in of_type(found.events, MicroBatchHalved)]
    return Row(
        what=what,
        expected=expected,
        measured=f"limit {limit_gib:.2f} GiB of {base.memory_gib:.2f}: {SIZES['cuda'].batch} -> {halved}; "
        f"{losses(found, base)}",
        ok=bool(halved) and is_near(found.loss, base.loss, share=0.02),
    )


def mfu(bench: Bench) -> Row:
    """Report the model FLOPs utilization against the speed of a large matrix product."""
    dtype = torch.bfloat16 if bench.is_gpu else torch.float32
    peak = matmul_tflops(bench.device, dtype)
    found = bench.train(
        bench.job(precision="bf16" if bench.is_gpu else "fp32"), f"resources.peak_tflops_per_worker={peak}"
    )
    text = "none" if found.mfu is None else f"{100 * found.mfu:.0f} %"
    return Row(
        what="MFU",
        expected="above 0 and at most 100 % of a large matrix product",
        measured=f"{text} of {peak:.3g} TFLOPS",
        ok=found.mfu is not None and 0 < found.mfu <= 1,
    )


def matmul_tflops(device: str, dtype: torch.dtype) -> float:
    size = 8192 if device == "cuda" else 512
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best_s = float("inf")
    for _ in range(5):
        wait(device)
        began = perf_counter()
        for _ in range(4):
            a @ b
        wait(device)
        best_s = min(best_s, (perf_counter() - began) / 4)
    return 2 * size**3 / best_s / 1e12


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def exact_resume(bench: Bench) -> Row:
    """Stop a training with dropout, resume it, and compare the weights with those of one that was not stopped."""
    job, dropout = bench.job(precision="bf16"), "recipe_args.dropout=0.1"
    whole = bench.train(job, dropout)
    folders: list[RunFolder] = []

    def stop(progress: Any) -> None:
        if progress.samples_seen and len(folders) == 1:
            folders.append(folders[0])
            signal.raise_signal(signal.SIGINT)  # the first Ctrl-C saves and stops

    with suppress(KeyboardInterrupt):
        scaler.submit(
            job,
            address="none",
            overrides=[dropout],
            storage=bench.storage,
            recipe_folder=HERE,
            on_start=folders.append,
            on_progress=stop,
        )
    resumed = trained(scaler.resume(folders[0].run_id, address="none", storage=bench.storage, recipe_folder=HERE))
    attempts = {record["attempt"] for record in resumed.records}
    pairs = [(tensor, resumed.state()["model"][name]) for name, tensor in whole.state()["model"].items()]
    differing = sum(not torch.equal(one, other) for one, other in pairs)
    return Row(
        what="exact resume (bf16, dropout)",
        expected="every weight has the same bits as without the stop",
        measured=f"{len(attempts)} attempts; {differing} of {len(pairs)} tensors differ",
        ok=len(attempts) == 2 and not differing,
    )


def overhead(bench: Bench) -> Row:
    """Compare the speed with a plain loop of torch's DistributedDataParallel."""
    precision = "bf16" if bench.is_gpu else "fp32"
    plain, ours = [], []
    for _ in range(2):
        ours.append(bench.train(bench.job(precision=precision)).samples_per_s)
        plain.append(plain_samples_per_s(bench))
    ratio = max(ours) / max(plain)
    return Row(
        what=f"overhead against plain DDP ({precision})",
        expected="at least 0.95 of the speed",
        measured=f"{ratio:.3f}: {max(ours):,.0f} and {max(plain):,.0f} samples/s",
        ok=ratio >= 0.95 if bench.is_gpu else None,  # the small model on a CPU says nothing about a GPU
    )


def plain_samples_per_s(bench: Bench) -> float:
    """Train with torch alone, one worker in a group of one; return the speed in the second half of the steps."""
    device, batch = torch.device(bench.device), SIZES[bench.device].batch
    recipe = build(**bench.job().recipe_args)
    store = dist.TCPStore("127.0.0.1", 0, 1, True, timeout=timedelta(seconds=60))
    dist.init_process_group("nccl" if bench.is_gpu else "gloo", store=store, rank=0, world_size=1)
    try:
        model = DistributedDataParallel(recipe.model.to(device))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        inputs, labels = recipe.train_data.tensors  # type: ignore[attr-defined]
        began = 0.0
        for step, index in enumerate(torch.randperm(len(inputs)).split(batch)):
            if step == STEPS // 2:
                wait(bench.device)
                began = perf_counter()
            x, y = inputs[index], labels[index]
            if bench.is_gpu:
                x, y = (part.pin_memory().to(device, non_blocking=True) for part in (x, y))
            with torch.autocast(bench.device, dtype=torch.bfloat16, enabled=bench.is_gpu):
                loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        wait(bench.device)
        return (STEPS - STEPS // 2) * batch / (perf_counter() - began)
    finally:
        dist.destroy_process_group()


CHECKS: Mapping[str, Callable[[Bench], Row]] = {
    check.__name__: check
    for check in (
        fp32, bf16, fp16, tf32, compiled, channels_last, activation_checkpointing, out_of_memory, mfu, exact_resume,
        overhead, sharing, nccl,
    )
}  # fmt: skip


def run_checks(device: str, names: Sequence[str], storage: Path) -> list[Row]:
    """Run checks one after the other; one that raises is a row that is not ok."""
    bench, rows = Bench(device=device, storage=storage), []
    for name in names:
        began = perf_counter()
        try:
            rows.append(CHECKS[name](bench))
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            what = (CHECKS[name].__doc__ or name).splitlines()[0]
            rows.append(Row(what=what, expected="no error", measured=f"{type(error).__name__}: {text}", ok=False))
        print(f"{name}: {perf_counter() - began:.0f} s", file=sys.stderr)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=list(SIZES), default="cuda", help="cpu: only what exists there")
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS), help="some checks")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} sees no GPU here; --device cpu runs what exists on a CPU.")
    with tempfile.TemporaryDirectory(prefix="on-gpu-") as storage:
        rows = run_checks(given.device, given.only, Path(storage))
    answers = {True: "yes", False: "NO", None: "-"}
    print(table([{**vars(row), "ok": answers[row.ok]} for row in rows]))
    if "OUT" in os.environ:
        name = torch.cuda.get_device_name() if given.device == "cuda" else "cpu"
        about = {"device": name, "torch": torch.__version__, "rows": [vars(row) for row in rows]}
        Path(os.environ["OUT"], "on_gpu.json").write_text(json.dumps(about, indent=2))
    return int(any(row.ok is False for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
