"""``scaler.load_model`` and ``scaler.export_model``: which weights they return, under which names."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import fsspec
import pytest
import torch
from groups import run_group
from torch import Tensor, nn
from torch.nn.parallel import DataParallel
from torch.utils.data import TensorDataset

import scaler
from scaler.errors import JobFileError, RecipeError, RunError
from scaler.job import dump_job, parse_job
from scaler.runs import RunFolder
from scaler.training.checkpoints.choose import parse_which
from scaler.training.checkpoints.files import complete_checkpoints
from scaler.training.checkpoints.state import load_checkpoint
from scaler.training.model.names import load_model_state, model_state, named_parameters, unwrapped

safetensors = pytest.importorskip("safetensors.torch", reason="pip install scaler[safetensors]")

RECIPE = '''
import torch
from torch import nn
from torch.utils.data import TensorDataset

import scaler


class Tied(nn.Module):
    """Tied weights, a BatchNorm with buffers, and a buffer that is not saved."""

    def __init__(self, width):
        super().__init__()
        self.embed, self.head = nn.Embedding(5, width), nn.Linear(width, 5, bias=False)
        self.head.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(width)
        self.register_buffer("noise", torch.randn(width), persistent=False)

    def forward(self, x):
        return self.head(self.norm(self.embed(x)))


def build(width=4, wrap=None):
    x = torch.arange(60) % 5
    model = Tied(width)
    if wrap is not None:
        model = torch.compile(model, backend="eager") if wrap == "compile" else nn.DataParallel(model)
    return scaler.Recipe(
        model=model,
        train_data=TensorDataset(x, x),
        eval_data=TensorDataset(x[:10], x[:10]),
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        loss_over="micro_batch",
    )
'''
JOB: dict[str, Any] = {
    "name": "tied",
    "recipe": "recipe_of_tied:build",
    "reference": {"global_batch_size": 10, "lr": 0.05, "optimizer": {"name": "sgd"}},
    "scale": {"num_workers": 1, "per_worker_batch_size": 20, "rule": "linear"},
    "schedule": {"name": "constant", "warmup": {"samples": 0}},
    "train": {"epochs": 3, "ema": {"decay": 0.9}, "eval_every": {"epochs": 1}},
    "checkpoint": {"every": {"epochs": 1}, "keep": 9, "best": {"metric": "loss", "mode": "min"}},
}


@pytest.fixture(scope="module")
def recipe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "recipe_of_tied.py").write_text(RECIPE)
    return folder


def trained(recipe_folder: Path, storage: str, **changes: Any) -> scaler.Run:
    job = parse_job({**JOB, "storage": storage, **changes}, source="job")
    return scaler.submit(job, recipe_folder=recipe_folder, address="none", workers=1)


@pytest.fixture(scope="module")
def run(recipe_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> scaler.Run:
    """A run with checkpoints at 60, 120 and 180 samples, and an average of its weights."""
    return trained(recipe_folder, str(tmp_path_factory.mktemp("runs")))


@pytest.fixture
def copied(run: scaler.Run, tmp_path: Path) -> RunFolder:
    """A copy of the run that a test may change."""
    shutil.copytree(str(run.folder.local_path), tmp_path / run.run_id)
    return RunFolder(str(tmp_path / run.run_id))


def saved(run: scaler.Run, samples: int) -> dict[str, Any]:
    """Return a checkpoint's state."""
    return load_checkpoint(run.folder, samples)


def require_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_the_weights_are_those_that_torch_reads_bit_for_bit(run: scaler.Run) -> None:
    """By default the average, where the run keeps one."""
    assert complete_checkpoints(run.folder) == [60, 120, 180]
    last, ema, raw = (scaler.load_model(run, **options) for options in ({}, {"ema": True}, {"ema": False}))
    state = saved(run, 180)
    require_equal(last.state_dict(), state["average"]["weights"])
    require_equal(ema.state_dict(), state["average"]["weights"])
    require_equal(raw.state_dict(), state["model"])
    assert not torch.equal(state["model"]["embed.weight"], state["average"]["weights"]["embed.weight"])
    assert raw.state_dict()["norm.num_batches_tracked"] == 9
    assert [model.training for model in (last, raw)] == [False, False]
    assert raw.head.weight is raw.embed.weight


def test_the_loss_of_the_loaded_model_is_the_one_that_the_run_evaluated(run: scaler.Run) -> None:
    x = torch.arange(10) % 5
    for name, ema in (("loss", False), ("ema_loss", None)):
        loss = nn.functional.cross_entropy(scaler.load_model(run, ema=ema)(x), x)
        assert loss.item() == pytest.approx(run.report.final.eval[name], rel=1e-6)


def test_a_recipe_may_build_its_model_on_the_meta_device(run: scaler.Run) -> None:
    classes: dict[str, Any] = {}
    exec(RECIPE, classes)

    def initialize(module: nn.Module) -> None:
        module.noise.zero_() if isinstance(module, classes["Tied"]) else module.reset_parameters()

    def on_meta(**arguments: Any) -> scaler.Recipe:
        with torch.device("meta"):
            model = classes["Tied"](4)
        data = TensorDataset(torch.arange(5), torch.arange(5))
        return scaler.Recipe(
            model=model, train_data=data, loss=lambda model, batch: model(batch[0]).mean(), initialize=initialize
        )

    loaded, plain = (scaler.load_model(run, **how) for how in ({"recipe": on_meta}, {}))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert loaded.head.weight is loaded.embed.weight
    assert loaded.noise.tolist() == [0.0] * 4


@pytest.mark.parametrize("which", [60, 120, 180])
def test_a_checkpoint_is_named_by_its_samples(run: scaler.Run, which: int) -> None:
    require_equal(scaler.load_model(run, which=which, ema=False).state_dict(), saved(run, which)["model"])


def test_the_best_checkpoint_has_the_best_value_and_not_the_newest_weights(copied: RunFolder) -> None:
    path = Path(copied.uri) / f"checkpoints/{120:015d}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "best_by": -1.0}))
    best = scaler.load_model(copied.uri, which="best", recipe=tied())
    require_equal(best.state_dict(), load_checkpoint(copied, 120)["model"])


@pytest.mark.parametrize("metric", ["loss", "ema_loss"])
def test_the_best_weights_are_those_that_the_best_value_is_of(recipe_folder: Path, tmp_path: Path, metric: str) -> None:
    checkpoint = {"keep": 9, "best": {"metric": metric, "mode": "min"}}
    run = trained(recipe_folder, str(tmp_path), checkpoint=checkpoint)
    exported = scaler.export_model(run, tmp_path / "best.pt", which="best")
    assert exported.is_average == (metric == "ema_loss")


def test_random_numbers_are_those_of_the_run_and_those_of_the_caller_stay(run: scaler.Run) -> None:
    torch.manual_seed(7)
    expected = torch.randn(3)
    torch.manual_seed(7)
    first, second = scaler.load_model(run), scaler.load_model(run)
    assert torch.equal(torch.randn(3), expected)
    assert torch.equal(first.noise, second.noise)


def tied(width: int = 4) -> nn.Module:
    import recipe_of_tied  # in the import path since the run has imported it

    model: nn.Module = recipe_of_tied.Tied(width)
    return model


@pytest.mark.parametrize("kind", ["module", "function", "recipe", "text", "wrapped"])
def test_what_makes_the_model_can_be_given(
    run: scaler.Run, recipe_folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(recipe_folder)
    model = tied()
    given: Any = {
        "module": model,
        "function": tied,
        "recipe": scaler.Recipe(model=model, train_data=[1], loss=lambda model, batch: torch.zeros(())),
        "text": "recipe_of_tied:build",
        "wrapped": torch.compile(DataParallel(model), backend="eager"),
    }[kind]
    loaded = scaler.load_model(run, recipe=given)
    require_equal(loaded.state_dict(), saved(run, 180)["average"]["weights"])
    assert (loaded is model) == (kind in ("module", "recipe", "wrapped"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler
@pytest.mark.parametrize("wrap", ["compile", "parallel"])
def test_a_wrapped_model_has_its_own_names_in_the_file(recipe_folder: Path, tmp_path: Path, wrap: str) -> None:
    wrapped = trained(recipe_folder, str(tmp_path), recipe_args={"wrap": wrap})
    scaler.export_model(wrapped, tmp_path / "tied.pt")
    state = torch.load(tmp_path / "tied.pt", weights_only=True)
    assert list(state) == list(tied().state_dict())
    require_equal(scaler.load_model(wrapped).state_dict(), state)  # the recipe wraps the model again
    require_equal(scaler.load_model(wrapped, recipe=tied()).state_dict(), state)


def test_two_workers_and_distributed_data_parallel_give_the_models_own_names() -> None:
    assert run_group(_names, 2) == [["0.weight", "0.bias"]] * 2


def _names(rank: int, world_size: int) -> list[str]:
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(2, 2)))
    assert unwrapped(model) is model.module
    other = nn.Sequential(nn.Linear(2, 2))
    load_model_state(other, model_state(model))
    load_model_state(model, model_state(other))
    assert list(named_parameters(model)) == list(model_state(model))
    return list(model_state(model))


def test_a_module_that_is_called_module_keeps_its_name() -> None:
    model = nn.ModuleDict({"module": nn.Linear(2, 2)})
    assert list(model_state(model)) == ["module.weight", "module.bias"]


@pytest.mark.parametrize("file", ["tied.pt", "tied.safetensors"])
@pytest.mark.parametrize("ema", [None, False])
def test_an_exported_file_has_the_weights_bit_for_bit(
    run: scaler.Run, tmp_path: Path, file: str, ema: bool | None
) -> None:
    exported = scaler.export_model(run, tmp_path / file, ema=ema)
    expected = saved(run, 180)["model"] if ema is False else saved(run, 180)["average"]["weights"]
    assert (exported.file, exported.samples_seen, exported.is_average) == (tmp_path / file, 180, ema is None)
    model = tied()
    if file.endswith(".pt"):
        require_equal(torch.load(exported.file, weights_only=True), expected)
        model.load_state_dict(torch.load(exported.file, weights_only=True))
    else:
        safetensors.load_model(model, exported.file)
    require_equal(model.state_dict(), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([file, "tied.md"])


def test_safetensors_hold_tied_weights_once_and_say_what_they_are(run: scaler.Run, tmp_path: Path) -> None:
    scaler.export_model(run, tmp_path / "tied.safetensors", which=120)
    assert "head.weight" not in safetensors.load_file(tmp_path / "tied.safetensors")
    with safetensors.safe_open(tmp_path / "tied.safetensors", "pt") as file:
        assert file.metadata() == {
            "format": "pt",
            "run": run.run_id,
            "samples_seen": "120",
            "weights": "average",
            "scaler": scaler.__version__,
            "head.weight": "embed.weight",
        }
    text = (tmp_path / "tied.md").read_text()
    assert "7 tensors with 37 numbers" in text  # embed 20, norm 4 x 4 + 1; head is embed


def test_tensors_that_share_a_part_of_their_memory_are_written_in_full(run: scaler.Run, tmp_path: Path) -> None:
    from scaler.training.checkpoints.weights import Weights, write_safetensors

    whole = torch.arange(12.0).reshape(3, 4)
    state = {"whole": whole, "row": whole[1], "turned": whole.T, "empty": torch.zeros(0), "none": torch.zeros(0)}
    weights = Weights(samples_seen=0, is_average=False, has_average=False, state=state, manifest={})
    write_safetensors(weights, tmp_path / "f.safetensors", {})
    require_equal(dict(sorted(safetensors.load_file(tmp_path / "f.safetensors").items())), dict(sorted(state.items())))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (torch.eye(2).to_sparse(), "a tensor of the layout torch.sparse_coo"),
        (3, "an int"),
    ],
)
def test_a_value_that_safetensors_cannot_hold_is_refused(value: Tensor, kind: str, tmp_path: Path) -> None:
    from scaler.training.checkpoints.weights import Weights, count_elements, write_safetensors, write_torch

    weights = Weights(samples_seen=0, is_average=False, has_average=False, state={"x": value}, manifest={})
    with pytest.raises(JobFileError) as error:
        write_safetensors(weights, tmp_path / "x", {})
    assert str(error.value) == f"safetensors cannot hold x, which is {kind}.\n  Use the format torch."
    write_torch(weights, tmp_path / "x")
    assert count_elements(weights) == (value.numel() if isinstance(value, Tensor) else 0)


def test_the_package_of_a_format_that_is_not_installed(
    run: scaler.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(JobFileError) as error:
        scaler.export_model(run, tmp_path / "tied.safetensors")
    assert str(error.value) == (
        "the format safetensors needs the package safetensors, which is not installed.\n"
        "  pip install 'scaler[safetensors]', or use the format torch."
    )
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def in_memory(run: scaler.Run) -> Iterator[RunFolder]:
    """The run in an object store."""
    folder = RunFolder(f"memory://{token_hex(8)}/{run.run_id}")
    local = run.folder.local_path
    assert local is not None
    for path in local.rglob("*"):
        if path.is_file():
            folder.write(str(path.relative_to(local)), path.read_bytes())
    yield folder
    fsspec.filesystem("memory").rm(folder.uri.removeprefix("memory:/").rpartition("/")[0], recursive=True)


def test_a_run_in_an_object_store(run: scaler.Run, in_memory: RunFolder, tmp_path: Path) -> None:
    storage, run_id = in_memory.uri.rsplit("/", 1)
    by_id = scaler.load_model(run_id, storage=storage, recipe=tied())
    by_uri = scaler.load_model(in_memory.uri, recipe=tied(), which="best")
    require_equal(by_id.state_dict(), saved(run, 180)["average"]["weights"])
    require_equal(by_uri.state_dict(), scaler.load_model(run, which="best").state_dict())
    scaler.export_model(in_memory.uri, tmp_path / "tied.pt", which=60)
    require_equal(torch.load(tmp_path / "tied.pt", weights_only=True), saved(run, 60)["average"]["weights"])


# Errors


def error_of(error: type[Exception], **options: Any) -> str:
    with pytest.raises(error) as raised:
        scaler.load_model(options.pop("run"), **options)
    return str(raised.value)


def test_a_checkpoint_that_does_not_exist(run: scaler.Run) -> None:
    assert error_of(RunError, run=run, which=99) == (
        f"run {run.run_id} has no checkpoint at 99 samples.\n"
        "  It has checkpoints at these numbers of samples: 60, 120, 180."
    )
    assert error_of(JobFileError, run=run, which="newest") == (
        "which = newest is not a checkpoint.\n  Use last, best, or the number of samples at which one was written."
    )


def test_a_run_without_a_best_checkpoint_or_an_average(recipe_folder: Path, tmp_path: Path) -> None:
    plain = trained(recipe_folder, str(tmp_path), checkpoint={"keep": 9}, train={"epochs": 1})
    assert error_of(RunError, run=plain, which="best") == (
        f"run {plain.run_id} keeps no best checkpoint: its job does not say which value is the best.\n"
        "  Set checkpoint.best in the job before training, or use another one. It has checkpoints at these numbers of "
        "samples: 60."
    )
    assert error_of(RunError, run=plain, ema=True) == (
        f"run {plain.run_id}: checkpoint 60 has no average of the weights: its job has no train.ema.\n"
        "  Leave ema out, or train with train.ema."
    )
    require_equal(scaler.load_model(plain).state_dict(), saved(plain, 60)["model"])


def test_no_checkpoint_yet(copied: RunFolder) -> None:
    for samples in complete_checkpoints(copied):
        copied.remove(f"checkpoints/{samples:015d}.json")
    assert error_of(RunError, run=copied.uri) == (
        f"run {copied.run_id} has no checkpoint yet.\n  One is written every checkpoint.every, and at the end of "
        "training; scaler status shows how far a run is."
    )


def test_no_checkpoint_has_a_value_to_be_the_best(copied: RunFolder) -> None:
    for samples in complete_checkpoints(copied):
        path = Path(copied.uri) / f"checkpoints/{samples:015d}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "best_by": None}))
    assert error_of(RunError, run=copied.uri, which="best") == (
        f"run {copied.run_id}: none of its checkpoints has a value of loss.\n  Wait for an evaluation, or use another "
        "one. It has checkpoints at these numbers of samples: 60, 120, 180."
    )


def test_an_altered_checkpoint_is_not_used_and_not_set_aside(copied: RunFolder) -> None:
    path = Path(copied.uri) / f"checkpoints/{180:015d}/average-00000.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert error_of(RunError, run=copied.uri, recipe=tied()) == (
        f"run {copied.run_id}: checkpoint 180 was altered: the checksum of average-00000.bin does not match.\n"
        "  Use another one. It has checkpoints at these numbers of samples: 60, 120, 180."
    )
    assert path.exists()


def test_nothing_is_read_of_the_optimizer_and_of_the_other_weights(copied: RunFolder, tmp_path: Path) -> None:
    expected = scaler.load_model(copied.uri, recipe=tied()).state_dict()
    for name in ("resume", "model"):
        path = Path(copied.uri) / f"checkpoints/{180:015d}/{name}-00000.bin"
        path.write_bytes(bytes(path.stat().st_size))
    scaler.export_model(copied.uri, tmp_path / "tied.pt")
    require_equal(torch.load(tmp_path / "tied.pt", weights_only=True), expected)


def test_another_model(run: scaler.Run) -> None:
    assert error_of(RecipeError, run=run, recipe=tied(width=8)) == (
        "checkpoint 180 holds another model: embed.weight is (5, 4) in it and (5, 8) in the recipe's model.\n"
        "  Give the recipe with which the run was trained: load_model(run, recipe=...)."
    )
    assert error_of(RecipeError, run=run, recipe=lambda: "model") == (
        "test_another_model.<locals>.<lambda> returned a str, not a model.\n"
        "  Return a scaler.Recipe or a torch.nn.Module."
    )
    assert error_of(JobFileError, run=run, recipe=lambda width: tied(width)).startswith(
        "job.yaml: recipe_args do not fit test_another_model.<locals>.<lambda>: missing a required argument: 'width'."
    )
    assert error_of(JobFileError, run=run, recipe="build") == (
        "recipe = build names no function.\n  Such as recipe:build or path/file.py:build."
    )
    assert error_of(RecipeError, run=run, recipe=lambda: 1 / 0).startswith(
        "test_another_model.<locals>.<lambda> failed: ZeroDivisionError: division by zero"
    )


def test_what_makes_the_model_begins_no_run(run: scaler.Run) -> None:
    assert error_of(JobFileError, run=run, recipe=lambda: scaler.start(parse_job(JOB, source="job"))) == (
        "test_what_makes_the_model_begins_no_run.<locals>.<lambda> calls scaler.start: it has a loop of its own, and "
        "this needs a recipe.\n  Return a scaler.Recipe."
    )


def test_the_recipe_of_a_copied_folder_is_not_run(copied: RunFolder, run: scaler.Run) -> None:
    assert error_of(JobFileError, run=copied.uri) == (
        f"run {copied.run_id} was made in {run.folder.place} and is now in another place, so scaler does not run the "
        "recipe that it names.\n  Give what makes the model: load_model(run, recipe=...), with a function or the model "
        "itself."
    )


def test_arguments_that_are_masked_in_the_folder_are_not_given_to_the_recipe(copied: RunFolder) -> None:
    job = parse_job({**JOB, "recipe_args": {"width": 4, "api_key": "sk-0123456789abcdef0123"}}, source="job")
    copied.write("job.yaml", dump_job(job))
    assert error_of(JobFileError, run=copied.uri, recipe=tied) == (
        "recipe_args.api_key is masked in the run's folder, so the recipe cannot be called.\n"
        "  Make the model yourself, and give it: load_model(run, recipe=model)."
    )
    assert scaler.load_model(copied.uri, recipe=tied())


def test_the_recipes_folder_may_have_moved(recipe_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(recipe_folder, tmp_path / "before", ignore=shutil.ignore_patterns("__pycache__"))
    moved = trained(tmp_path / "before", str(tmp_path / "runs"), train={"epochs": 1})
    (tmp_path / "before").rename(tmp_path / "after")
    assert error_of(JobFileError, run=moved) == (
        f"run {moved.run_id} has its recipe in {tmp_path / 'before'}, which is not on this machine.\n"
        "  Say where it is now: load_model(run, recipe_folder=...); or give what makes the model: load_model(run, "
        "recipe=...), with a function or the model itself."
    )
    loaded = scaler.load_model(moved, recipe_folder=tmp_path / "after")
    require_equal(loaded.state_dict(), saved(moved, 60)["model"])


def test_a_loop_of_ones_own_has_its_checkpoints_itself(tmp_path: Path) -> None:
    job = {key: value for key, value in JOB.items() if key not in ("recipe", "checkpoint", "train")}
    own = scaler.start(parse_job({**job, "train": {"epochs": 1}}, source="job"), num_samples=20, storage=tmp_path)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model, optimizer, loader = own.prepare(model, optimizer, [(torch.ones(20, 1),)])
    for (x,) in loader:
        model(x).mean().backward()
        optimizer.step()
    own.finish()
    uri = own.state_dict()["run"]
    assert error_of(RunError, run=uri) == (
        f"run {RunFolder(uri).run_id} was trained in a loop of one's own, whose script writes the checkpoints.\n"
        "  Load the file that the script has saved, with torch.load."
    )


def test_weights_in_training_of_a_schedule_free_optimizer(recipe_folder: Path, tmp_path: Path) -> None:
    reference = {"global_batch_size": 10, "lr": 0.05, "optimizer": {"name": "schedulefree_adamw"}}
    free = trained(recipe_folder, str(tmp_path), reference=reference, train={"epochs": 2})
    require_equal(scaler.load_model(free).state_dict(), saved(free, 120)["model"])
    assert error_of(RunError, run=free, which=60).startswith(
        f"run {free.run_id}: checkpoint 60 has the weights with which a schedule-free optimizer trains, not those"
    )
    require_equal(scaler.load_model(free, which=60, ema=False).state_dict(), saved(free, 60)["model"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.onnx", {}, "{path}: the end of its name does not say its format.\n  End it with .safetensors, .pt, .pth, "
         ".bin, or give the format: --format torch, or --format safetensors."),
        ("a.pt", {"format": "onnx"}, "format = onnx is not known.\n  Use torch or safetensors."),
        ("a.md", {"format": "torch"}, "{path}: the model card would get the same name.\n  End it with .pt or "
         ".safetensors."),
        ("there.pt", {}, "{path} exists.\n  Give another name, or --overwrite (overwrite=True) to replace it."),
        ("no/a.pt", {}, "{path}: there is no folder {path.parent}.\n  Give a file in a folder that exists."),
    ],
)  # fmt: skip
def test_files_that_cannot_be_written(
    run: scaler.Run, tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "there.md").write_text("mine")
    (tmp_path / "there.pt").write_text("mine")
    with pytest.raises(JobFileError) as error:
        scaler.export_model(run, tmp_path / name, **options)
    assert str(error.value) == message.format(path=tmp_path / name)
    assert (tmp_path / "there.pt").read_text() == "mine"
    scaler.export_model(run, tmp_path / "there.pt", overwrite=True)
    assert (tmp_path / "there.md").read_text().startswith("# tied\n")


def test_what_a_command_line_names() -> None:
    assert [parse_which(text) for text in ("last", "best", "1437")] == ["last", "best", 1437]
    with pytest.raises(JobFileError, match="which = -1 is not a checkpoint"):
        parse_which("-1")
