"""Options that change how a model computes change neither its names, nor its gradients beyond rounding."""

from collections import OrderedDict
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import checkpoint, in_this_process, make_job, make_recipe, new_folder, run, weights_of
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from scaler import Recipe
from scaler.errors import JobFileError, RecipeError, TrainingError
from scaler.job.acceleration import Compile
from scaler.job.model import Train
from scaler.training.data.batches import batches
from scaler.training.device import prepare_device
from scaler.training.model.acceleration import (
    compile_failure,
    compile_model,
    recompute_activations,
    use_channels_last,
)
from scaler.training.tf32 import allow_tf32, without_tf32

GPU = torch.device("cuda", 0)
ignores_compiler_warnings = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _forget_compiled_code() -> Iterator[None]:
    """torch compiles a function for at most 8 models; then it runs the others uncompiled."""
    yield
    torch._dynamo.reset()


class Block(nn.Module):
    """A block with dropout; counts how often its forward runs."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.inner, self.calls = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Dropout(0.5)), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.inner(x)  # type: ignore[no-any-return]


def blocks_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(body=nn.Sequential(Block(), Block(), Block()), head=nn.Linear(6, 2)))


def gradients(model: nn.Module) -> list[Tensor]:
    torch.manual_seed(1)
    model(torch.randn(5, 6)).square().sum().backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


# --- activation checkpointing


@pytest.mark.parametrize("blocks", ["auto", ("Block",)])
def test_recomputed_blocks_have_the_same_gradients_with_dropout(blocks: Any) -> None:
    kept, recomputed = blocks_model(), blocks_model()
    assert recompute_activations(recomputed, blocks) == ["body.0", "body.1", "body.2"]
    pairs = zip(gradients(kept), gradients(recomputed), strict=True)
    assert all(torch.allclose(one, other, rtol=1e-6) for one, other in pairs)
    assert [block.calls for block in kept.body] == [1, 1, 1]
    assert [block.calls for block in recomputed.body] == [2, 2, 2], "forward ran again in backward"
    assert list(recomputed.state_dict()) == list(kept.state_dict())


@ignores_compiler_warnings
def test_recomputed_blocks_compile() -> None:
    kept, recomputed = blocks_model().eval(), blocks_model().eval()  # dropout draws other numbers when compiled
    recompute_activations(recomputed, "auto")
    compile_model(recomputed, Compile(backend="aot_eager"))
    pairs = zip(gradients(kept), gradients(recomputed), strict=True)
    assert all(torch.allclose(one, other, rtol=1e-5, atol=1e-6) for one, other in pairs)


def test_a_copy_of_a_model_with_recomputed_blocks_computes_with_its_own_weights() -> None:
    model = blocks_model()
    recompute_activations(model, "auto")
    copy = deepcopy(model)
    gradients(copy)
    assert [block.calls for block in copy.body] == [2, 2, 2]
    assert [block.calls for block in model.body] == [0, 0, 0]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_outermost_blocks_count_and_a_shared_one_counts_once() -> None:
    shared = Block()
    model = nn.ModuleDict({"a": nn.ModuleList([shared, Block()]), "b": nn.ModuleList([shared, Block()])})
    assert recompute_activations(model, ("Block", "Sequential")) == ["a.0", "a.1", "b.1"]


@pytest.mark.parametrize(
    ("make", "blocks", "text"),
    [
        (
            lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)),  # layers without parts are no blocks
            "auto",
            "train.activation_checkpointing = auto, and the model has no blocks of one class that stand together in an "
            "nn.ModuleList or nn.Sequential.\n  Give class names. The model's classes: Sequential, Linear.",
        ),
        (
            lambda: nn.Sequential(nn.Linear(2, 2)),
            ("Linaer",),
            "train.activation_checkpointing: the model has no module of the class Linaer.\n"
            '  Did you mean "Linear"? The model\'s classes: Sequential, Linear.',
        ),
        (
            lambda: nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(2))),
            "auto",
            "train.activation_checkpointing: the block 0 has a BatchNorm1d, whose running statistics would count each "
            "batch twice.\n  Give class names of blocks without BatchNorm, or use GroupNorm or LayerNorm.",
        ),
    ],
)
def test_a_model_whose_blocks_cannot_be_recomputed_is_refused(make: Any, blocks: Any, text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recompute_activations(make(), blocks)
    assert str(caught.value) == text


def test_a_block_with_a_frozen_batch_norm_is_recomputed() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval()) for _ in range(2)))
    assert recompute_activations(model, "auto") == ["0", "1"]


# --- channels_last


class Convolving(nn.Module):
    """A convolution that notes the memory format of its output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head, self.formats = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), list[bool]()

    def forward(self, x: Tensor) -> Tensor:
        made = self.conv(x)
        self.formats.append(made.is_contiguous(memory_format=torch.channels_last))
        return self.head(made.mean((2, 3)))  # type: ignore[no-any-return]


def convolving_recipe(loss: Any = None) -> Recipe:
    torch.manual_seed(0)
    images = torch.randn(250, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    data = TensorDataset(images, (images.mean((1, 2, 3)) > 0).long())
    return replace(make_recipe(), model=Convolving(), train_data=data, eval_data=None, evaluate=None)


def test_convolutions_compute_in_channels_last_and_a_resume_may_leave_it(tmp_path: Path) -> None:
    values = {"per_worker_batch_size": 64}
    trained = {}
    for channels_last in (True, False):
        recipe = convolving_recipe()
        job = make_job(**values, train={"channels_last": channels_last, "samples": 250})
        (tmp_path / str(channels_last)).mkdir()
        in_this_process(tmp_path / str(channels_last), recipe, job)[0].run()
        assert set(recipe.model.formats) == {channels_last}
        trained[channels_last] = weights_of(recipe.model)
    assert trained[True] == pytest.approx(trained[False], rel=1e-3, abs=1e-5)
    again = convolving_recipe()
    training, _ = in_this_process(tmp_path / "True", again, make_job(**values, train={"samples": 500}))
    training.restore(250)
    assert weights_of(again.model) == trained[True]
    assert training.run().value == "finished"


def test_volumes_have_their_own_format_and_a_model_without_convolutions_is_refused() -> None:
    conv = nn.Conv3d(2, 2, 2)
    use_channels_last(conv)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last_3d)
    with pytest.raises(RecipeError) as caught:
        use_channels_last(nn.Linear(2, 2))
    assert str(caught.value) == (
        "train.channels_last = true, and the model has no convolution: no weight has 4 or 5 dimensions.\n"
        "  Leave channels_last out."
    )


# --- compile


@ignores_compiler_warnings
@pytest.mark.parametrize("first", [True, False])
def test_a_compiled_run_has_plain_names_and_resumes_compiled_or_not(tmp_path: Path, first: bool) -> None:
    def job(*, compiled: bool, samples: int) -> Any:
        train = {"compile": {"backend": "eager"} if compiled else False, "samples": samples, "ema": {"decay": 0.9}}
        return make_job(per_worker_batch_size=64, train=train)

    folder = new_folder(tmp_path)
    plain = list(make_recipe().model.state_dict())
    (whole,) = run(tmp_path, 1, job(compiled=False, samples=500))
    run(tmp_path, 1, job(compiled=first, samples=250), folder=folder)
    saved = checkpoint(folder)
    assert list(saved["model"]) == plain
    assert list(saved["average"]["weights"]) == plain
    (resumed,) = run(tmp_path, 1, job(compiled=not first, samples=500), folder=folder)
    assert resumed["weights"] == pytest.approx(whole["weights"], rel=0.2), "as far as the schedules agree"


@ignores_compiler_warnings
def test_a_compiled_run_on_two_workers_trains_as_an_eager_one(tmp_path: Path) -> None:
    values = {"num_workers": 2, "global_batch_size": 60}
    eager = run(tmp_path, 2, make_job(**values))
    compiled = run(tmp_path, 2, make_job(**values, train={"compile": {"backend": "eager"}}))
    assert compiled[0]["weights"] == pytest.approx(eager[0]["weights"], rel=1e-5)
    assert compiled[0]["weights"] == compiled[1]["weights"]


@ignores_compiler_warnings
def test_steps_are_compiled_and_not_the_checks_before_them(tmp_path: Path) -> None:
    from torch._dynamo.utils import counters

    recipe = make_recipe()
    training, _ = in_this_process(
        tmp_path, recipe, make_job(per_worker_batch_size=64, train={"compile": {"backend": "eager"}})
    )
    kept, counters["stats"]["unique_graphs"] = counters["stats"]["unique_graphs"], 0
    training.run()
    assert 2 <= counters["stats"]["unique_graphs"] <= 4, "one for a step's batch, one for other sizes, and evaluations"
    counters["stats"]["unique_graphs"] = kept


def test_a_backend_that_torch_lacks_is_refused() -> None:
    with pytest.raises(JobFileError) as caught:
        compile_model(nn.Linear(2, 2), Compile(backend="inducter"))
    assert str(caught.value).startswith(
        'train.compile.backend = inducter is not one of torch\'s backends.\n  Did you mean "inductor"? Known: '
    )


@ignores_compiler_warnings
def test_compilation_without_a_compiler_names_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    training, _ = in_this_process(tmp_path, make_recipe(), make_job(per_worker_batch_size=64, train={"compile": True}))
    with pytest.raises(TrainingError) as caught:
        training.run()
    assert str(caught.value) == (
        "torch.compile failed: InductorError: InvalidCxxCompiler: No working C++ compiler found in "
        "torch._inductor.config.cpp.cxx: ('no-such-compiler',) ...\n"
        "  Install a C++ compiler on the node (Debian, Ubuntu: apt-get install g++; on a GPU also pip install triton), "
        "or train without it: --set train.compile=false."
    )


def test_errors_that_are_not_the_compilers_keep_their_class() -> None:
    assert compile_failure(torch.OutOfMemoryError("out of memory")) is None
    assert compile_failure(KeyError("column")) is None


# --- precision, TF32 and pinned memory


@pytest.fixture
def tf32_settings() -> Iterator[None]:
    yield
    allow_tf32(False)
    torch.backends.cudnn.allow_tf32 = True  # torch's default


def tf32() -> tuple[bool, bool]:
    """Whether matrix multiplications and convolutions may use TF32."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def train_section(**values: Any) -> Train:
    return Train(epochs=1, **values)


@pytest.mark.usefixtures("tf32_settings")
@pytest.mark.parametrize(("asked", "found"), [(None, (False, True)), (True, (True, True)), (False, (False, False))])
def test_tf32_is_set_before_training_and_off_in_the_checks_at_the_start(
    monkeypatch: pytest.MonkeyPatch, asked: bool | None, found: tuple[bool, bool]
) -> None:
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    prepare_device(GPU, train_section(tf32=asked))
    assert tf32() == found
    with without_tf32(GPU):
        assert tf32_precisions() == ["ieee"] * 3
    assert tf32() == found
    with without_tf32(torch.device("cpu")):
        assert tf32() == found


def tf32_precisions() -> list[str]:
    cudnn = torch.backends.cudnn
    return [owner.fp32_precision for owner in (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)]


@pytest.mark.usefixtures("tf32_settings")
def test_a_recipe_that_uses_torchs_newer_names_keeps_its_settings() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    with without_tf32(GPU):
        assert tf32_precisions() == ["ieee"] * 3
    assert tf32_precisions()[:2] == ["tf32", "ieee"]


def test_bf16_on_a_gpu_without_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    prepare_device(GPU, train_section(precision="fp16"))
    with pytest.raises(JobFileError) as caught:
        prepare_device(GPU, train_section(precision="bf16"))
    assert str(caught.value) == (
        "train.precision = bf16, and the GPU Tesla T4 does not compute in it.\n"
        "  Use fp16, which scales the loss: --set train.precision=fp16."
    )


def test_a_step_whose_fp16_gradient_overflows_is_skipped_and_training_continues(tmp_path: Path) -> None:
    seen: list[list[float]] = []

    def overflowing(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return cross entropy; the gradient of the third call is infinite."""
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        seen.append(weights_of(model))
        if len(seen) == 3:
            loss.register_hook(lambda grad: grad * float("inf"))
        return loss

    job = make_job(per_worker_batch_size=50, train={"precision": "fp16", "samples": 250, "noise_scale_every": None})
    recipe = replace(make_recipe(loss=overflowing), loss_over="micro_batch", eval_data=None, evaluate=None)
    training, around = in_this_process(tmp_path, recipe, job)
    training.run()
    changed = [before != after for before, after in pairwise([*seen, weights_of(recipe.model)])]
    assert changed == [True, True, False, True, True]
    assert [isfinite(record.grad_norm) for record in around.records] == changed
    assert [record.lr for record in around.records] == [record.lr_planned for record in around.records]
    assert [record.samples_seen for record in around.records] == [0, 50, 100, 150, 200], "its samples count"
    assert checkpoint(tmp_path)["scaler"]["scale"] == 2.0**15, "the loss scale was halved"


@pytest.mark.parametrize("pin", [True, False])
def test_batches_of_tensors_in_memory_are_pinned_for_a_gpu(monkeypatch: pytest.MonkeyPatch, pin: bool) -> None:
    pinned: list[int] = []

    def pin_memory(tensor: Tensor) -> Tensor:
        pinned.append(len(tensor))
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
    recipe = make_recipe()
    (batch,) = batches(recipe, recipe.train_data, [torch.tensor([4, 2])], data_workers=0, pin=pin)
    assert [len(part) for part in batch] == [2, 2]
    assert pinned == ([2, 2] if pin else [])
