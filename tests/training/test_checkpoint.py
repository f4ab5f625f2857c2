"""Checkpoints: which are kept, which are complete, which are passed over, and that training does not wait for them."""

import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import EveryStep, events_of, in_this_process, make_job, make_recipe, new_folder, run
from torch import nn

from scaler import Recipe
from scaler.errors import ClusterError, RecipeError, RunError
from scaler.runs import RunFolder
from scaler.training.checkpoints import plain, writer
from scaler.training.checkpoints.copies import copy_state
from scaler.training.checkpoints.files import (
    SCHEMA_VERSION,
    FileSum,
    UnusableError,
    complete_checkpoints,
    copy_checkpoint,
    find_checkpoint,
    open_files,
    read_manifest,
    remove_checkpoint,
    write_manifest,
)
from scaler.training.checkpoints.save import FolderWriter, save_copy
from scaler.training.checkpoints.state import load_checkpoint, write_checkpoint

STATE = {"samples_seen": 0, "model": {"weights": torch.arange(4.0)}, "moments": torch.ones(4)}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """Return a run's folder with checkpoints at 100, 200 and 300 samples."""
    made = RunFolder(str(tmp_path / "run"))
    for samples in (100, 200, 300):
        write_checkpoint(made, {**STATE, "samples_seen": samples}, {"samples_seen": samples})
    return made


def files(folder: RunFolder) -> Path:
    return Path(folder.uri) / "checkpoints"


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def renamed(path: Path, name: str, other: str) -> None:
    path.write_text(path.read_text().replace(f'"{name}"', f'"{other}"'))


def replace_file(folder: RunFolder, name: str, data: bytes) -> None:
    """Replace a file of the checkpoint at 300 samples, with the right checksum."""
    there = open_files(folder, 300)
    (files(folder) / f"{300:015d}" / name).write_bytes(data)
    write_manifest(folder, {"samples_seen": 300}, {**there.files, name: FileSum.of(data)})


def test_the_newest_checkpoint_is_found_and_read(folder: RunFolder) -> None:
    assert find_checkpoint(folder) == (300, [])
    assert torch.equal(load_checkpoint(folder, 300)["model"]["weights"], torch.arange(4.0))
    assert complete_checkpoints(folder) == [100, 200, 300]


@pytest.mark.parametrize(
    ("name", "harm", "reason"),
    [
        ("{}/model-00000.bin", cut_short, r"checkpoint 300 is incomplete: model-00000.bin has 6 bytes of 16$"),
        ("{}/resume-00000.bin", alter, r"checkpoint 300 was altered: the checksum of resume-00000.bin does not match$"),
        ("{}/plain.pt", alter, r"checkpoint 300 was altered: the checksum of plain.pt does not match$"),
        ("{}/metadata.json", Path.unlink, r"checkpoint 300 is incomplete: its file metadata.json is missing$"),
        ("{}.json", Path.unlink, r"checkpoint 300 is incomplete: its manifest was not written$"),
        ("{}.json", cut_short, r"checkpoint 300 is incomplete: its manifest is not JSON$"),
        ("{}.json", lambda path: path.write_text("[1]"), r"was altered: its manifest is not a JSON object$"),
        ("{}.json", lambda path: renamed(path, "plain.pt", "../plain.pt"), r"its manifest does not name its files$"),
        ("{}.json", lambda path: renamed(path, "bytes", "size"), r"its manifest does not name its files$"),
    ],
)
def test_an_incomplete_or_altered_checkpoint_is_passed_over_for_the_one_before(
    folder: RunFolder, name: str, harm: Callable[[Path], Any], reason: str
) -> None:
    harm(files(folder) / name.format(f"{300:015d}"))
    found, ((samples, why),) = find_checkpoint(folder)
    assert (found, samples) == (200, 300)
    assert re.search(reason, why)
    assert find_checkpoint(folder) == (200, []), "it was set aside, and is not met again"
    is_counted = name != "{}.json" or harm is not Path.unlink
    assert any(path.name.endswith(".bad") for path in files(folder).iterdir()) == is_counted, "a person can look at it"
    assert not (files(folder) / f"{300:015d}").exists()


def test_storage_that_cannot_be_read_just_now_sets_nothing_aside(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(self: RunFolder, name: str, **options: Any) -> Any:
        raise RunError("the network is down.")

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "read_blocks", unreachable)
        with pytest.raises(RunError, match="the network is down"):
            find_checkpoint(folder)
    assert find_checkpoint(folder) == (300, [])


def test_with_no_checkpoint_left_nothing_begins_anew_by_itself(folder: RunFolder) -> None:
    for path in files(folder).glob("*/model-00000.bin"):
        alter(path)
    with pytest.raises(RunError) as caught:
        find_checkpoint(folder)
    assert str(caught.value) == (
        "run run: none of its checkpoints can be used. checkpoint 300 was altered: the checksum of "
        "model-00000.bin does not match.\n"
        "  Restore one from a copy, or submit the job again; scaler does not restart from 0 automatically."
    )
    assert not list(files(folder).glob("*.bad"))


def test_a_first_checkpoint_that_was_cut_off_by_a_kill_is_none(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path / "run"))
    folder.write("checkpoints/000000000000100/model-00000.bin", b"half of i")
    assert find_checkpoint(folder) == (None, [(100, "checkpoint 100 is incomplete: its manifest was not written")])
    assert find_checkpoint(folder) == (None, [])
    assert list(files(folder).iterdir()) == [], "what cannot be used takes no space"


def test_a_checkpoint_of_another_version_is_refused_and_left_alone(folder: RunFolder) -> None:
    path = files(folder) / f"{300:015d}.json"
    path.write_text(path.read_text().replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 1'))
    with pytest.raises(RunError) as caught:
        find_checkpoint(folder)
    assert str(caught.value) == (
        f"run run: checkpoint 300 has schema version 1, and this scaler reads {SCHEMA_VERSION}.\n"
        "  Resume with the version of scaler that wrote it."
    )
    assert complete_checkpoints(folder) == [100, 200, 300]


def test_storage_that_refuses_to_set_one_aside_is_reported(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    alter(files(folder) / f"{300:015d}/model-00000.bin")

    def refuse(*args: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folder.filesystem("")[0], "cp_file", refuse)
    with pytest.raises(
        RunError, match=r"checkpoint 300 cannot be used, and cannot be set aside\. .*: Permission denied\."
    ):
        find_checkpoint(folder)


def test_a_checkpoint_that_was_made_to_run_code_does_not(folder: RunFolder, tmp_path: Path) -> None:
    marker = tmp_path / "it ran"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (marker,)

    for data in (pickle.dumps(Evil()), _saved_by_torch(Evil(), tmp_path)):
        replace_file(folder, "plain.pt", data)
        with pytest.raises(RunError, match=r"checkpoint 300 cannot be read"):
            load_checkpoint(folder, 300)
    assert not marker.exists()


@dataclass
class Plain:
    x: int = 1


NUMPY = np.float64(0).__reduce__()[0].__module__  # numpy._core.multiarray; before numpy 2, numpy.core.multiarray
KEPT: list[tuple[Any, str | None]] = [  # what get_extra_state returns, and what torch's reader does not take in it
    ({"calls": 3, "of": ["a", (1, 2.0), None, b"x", {1, 2}]}, None),
    (torch.eye(3).to_sparse(), None),
    (np.zeros(3), f"{NUMPY}._reconstruct"),
    ({"scale": [1.0, np.float64(2.0)]}, f"{NUMPY}.scalar"),
    (Plain(), f"{__name__}.Plain"),
]


class Keeping(nn.Linear):
    """Keeps a value beside its weights."""

    kept: Any = None

    def get_extra_state(self) -> Any:
        return self.kept

    def set_extra_state(self, state: Any) -> None:
        self.kept = state


def keeping(value: Any) -> Recipe:
    made, model = make_recipe(), nn.Sequential(nn.Linear(6, 4), Keeping(4, 2))
    model[1].kept = value
    return Recipe(model=model, train_data=made.train_data, loss=made.loss)


@pytest.mark.parametrize(("value", "blamed"), KEPT)
def test_a_state_holds_more_than_tensors_and_what_no_restart_could_read_is_refused_at_the_first_step(
    tmp_path: Path, value: Any, blamed: str | None
) -> None:
    job = make_job(per_worker_batch_size=64, train={"ema": {"decay": 0.9}})
    training, around = in_this_process(tmp_path, keeping(value), job)
    if blamed is not None:
        with pytest.raises(RecipeError) as caught:
            training.run()
        place = "model.1._extra_state" + (".scale[1]" if isinstance(value, dict) else "")
        kind = "float64" if isinstance(value, dict) else type(value).__name__
        assert str(caught.value) == (
            f"a checkpoint cannot hold {place} ({kind}): torch.load(weights_only=True) does not read {blamed}.\n"
            "  Keep it as tensors, numbers, strings, or lists and dicts of these; or let the recipe call "
            "torch.serialization.add_safe_globals with its class."
        )
        assert training.samples_seen == 0
        assert find_checkpoint(around.folder) == (None, [])
        return
    training.run()
    again, around = in_this_process(tmp_path, keeping("nothing"), job)
    found, _ = find_checkpoint(around.folder)
    assert found is not None
    again.restore(found)
    kept = again._stepper.module[1].kept
    assert torch.equal(kept.to_dense(), torch.eye(3)) if isinstance(value, torch.Tensor) else kept == value


def test_a_state_that_turns_unreadable_later_ends_the_training(tmp_path: Path) -> None:
    recipe = keeping(None)
    loss, calls = recipe.loss, []

    def spoil(model: nn.Module, batch: Any) -> Any:
        calls.append(1)
        model[1].kept = Plain() if len(calls) == 3 else model[1].kept
        return loss(model, batch)

    recipe = Recipe(model=recipe.model, train_data=recipe.train_data, loss=spoil, loss_over="micro_batch")
    training, around = in_this_process(tmp_path, recipe, make_job(per_worker_batch_size=64))
    with pytest.raises(
        RecipeError, match=rf"^the checkpoint cannot be read again: .* does not read {__name__}.Plain\."
    ):
        training.run()
    assert complete_checkpoints(around.folder) == []


def test_a_checkpoint_that_torch_does_not_read_is_kept_and_no_message_asks_to_remove_it(folder: RunFolder) -> None:
    replace_file(folder, "plain.pt", plain.written({"x": Plain()}))
    with pytest.raises(RunError) as caught:
        load_checkpoint(folder, 300)
    assert str(caught.value) == (
        "run run: checkpoint 300 cannot be read, although its checksum is correct: "
        "torch.load(weights_only=True) does not "
        f"read {__name__}.Plain.\n"
        "  If you trust the file, let the recipe call torch.serialization.add_safe_globals with that class; then "
        "resume. Keep the file: the checkpoints before it may hold the same value."
    )


def test_what_no_restart_could_read_replaces_nothing(folder: RunFolder) -> None:
    with pytest.raises(RecipeError, match="the checkpoint cannot be read again"):
        write_checkpoint(folder, {**STATE, "x": Plain()}, {"samples_seen": 300})
    assert find_checkpoint(folder) == (300, [])


def test_a_copy_in_another_run_has_all_files_and_an_altered_checkpoint_is_not_copied(
    folder: RunFolder, tmp_path: Path
) -> None:
    other = RunFolder(str(tmp_path / "other"))
    copy_checkpoint(folder, 300, other)
    assert read_manifest(other, 300) == {**read_manifest(folder, 300), "attempt": None}
    assert find_checkpoint(other) == (300, [])
    assert torch.equal(load_checkpoint(other, 300)["moments"], torch.ones(4))
    alter(files(folder) / f"{200:015d}/resume-00000.bin")
    with pytest.raises(UnusableError, match=r"the checksum of resume-00000\.bin does not"):
        copy_checkpoint(folder, 200, other)
    assert complete_checkpoints(other) == [300]


def test_an_index_that_does_not_fit_the_files_is_an_error(folder: RunFolder) -> None:
    path = files(folder) / f"{300:015d}/metadata.json"
    index = path.read_text()
    for changed, why in (
        (index.replace('"start":0', '"start":9'), "ValueError: model/weights is outside of model-00000.bin"),
        (index.replace('"shape":[4]', '"shape":[3]'), "ValueError: metadata.json has 3 of 4 elements of model/weights"),
        (index.replace('"float32"', '"load"'), "TypeError: load is no dtype of torch"),
        (index.replace('"parts"', '"chunks"'), "KeyError: 'parts'"),
        (index.replace("model-00000.bin", "../../x.bin"), "ValueError: model/weights is outside of ../../x.bin"),
    ):
        replace_file(folder, "metadata.json", changed.encode())
        with pytest.raises(RunError) as caught:
            load_checkpoint(folder, 300)
        assert caught.value.problem.endswith(f"cannot be read, although its checksum is correct: {why}.")


def test_the_copy_of_a_state_is_one_of_its_own() -> None:
    kept = np.zeros(2)
    state = {"a": [kept], "sparse": torch.eye(2).to_sparse(), "named": Plain(2)}
    copy = copy_state(state).plain
    kept += 1
    state["sparse"].values().add_(1)
    state["named"].x = 3
    assert copy["a"][0].tolist() == [0.0, 0.0]
    assert torch.equal(copy["sparse"].to_dense(), torch.eye(2))
    assert copy["named"] == Plain(2)


def _saved_by_torch(value: object, tmp_path: Path) -> bytes:
    torch.save(value, tmp_path / "evil.pt")
    return (tmp_path / "evil.pt").read_bytes()


def test_a_copy_shares_nothing_with_training_and_what_training_shares() -> None:
    weight = torch.ones(3)
    state = {"tied": [weight, weight.detach()], "plain": (1, "two", None), "empty": torch.empty(0)}
    copy = copy_state(state)
    weight += 1
    assert {name: piece.tensor.tolist() for name, piece in copy.pieces.items()} == {"tied/[0]": [1, 1, 1], "empty": []}
    assert copy.plain["tied"][0] is copy.plain["tied"][1]
    assert copy.plain["plain"] == (1, "two", None)


def test_a_manifest_says_what_the_checkpoint_is(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    run(tmp_path, 1, make_job(per_worker_batch_size=64), folder=folder)
    about = read_manifest(RunFolder(str(folder)), 750)
    assert (about["samples_seen"], about["epoch"], about["epoch_samples"]) == (750, 3, 0)
    assert about["reference"]["global_batch_size"] == 16
    assert about["plan"]["global_batch_size"] == 64
    assert about["world_size"] == 1
    assert set(about["values"]) == {"accuracy", "loss"}
    written = {path.name: path.read_bytes() for path in (folder / "checkpoints" / f"{750:015d}").iterdir()}
    assert set(written) == {"model-00000.bin", "resume-00000.bin", "plain.pt", "metadata.json"}
    assert about["bytes"] == sum(map(len, written.values()))
    sums = {name: {"bytes": len(data), "sha256": sha256(data).hexdigest()} for name, data in written.items()}
    assert about["files"] == sums
    state = torch.load(folder / "checkpoints" / f"{750:015d}" / "plain.pt", weights_only=True)
    assert state["model"]["0.weight"].shape == (16, 6)
    kept = {"model", "optimizer", "scaler", "controllers", "average", "progress", "samples_seen", "random"}
    assert kept <= set(state)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_is_kept_beside_the_newest(tmp_path: Path, mode: str) -> None:
    values = iter([0.5, 0.9, 0.1, 0.4, 0.6, 0.7])
    recipe = make_recipe()
    object.__setattr__(recipe, "evaluate", lambda model, batch: {"score": current})
    job = make_job(
        per_worker_batch_size=125,
        train={"epochs": 3, "eval_every": {"samples": 125}},
        checkpoint={"every": {"epochs": 3}, "keep": 1, "best": {"metric": "score", "mode": mode}},
    )
    training, around = in_this_process(tmp_path, recipe, job)
    evaluate = training._evaluation.values

    def each_time(*args: Any, **options: Any) -> dict[str, float]:
        nonlocal current
        current = next(values)
        return evaluate(*args, **options)

    current = 0.5
    training._evaluation.values = each_time  # type: ignore[method-assign]
    training._evaluation.check = lambda *_, **__: None  # type: ignore[method-assign]
    training.run()
    best = 375 if mode == "min" else 250
    assert complete_checkpoints(around.folder) == [best, 750]
    assert read_manifest(around.folder, best)["best_by"] == pytest.approx(0.1 if mode == "min" else 0.9)


def test_a_metric_that_is_not_evaluated_makes_no_best(tmp_path: Path) -> None:
    job = make_job(per_worker_batch_size=64, checkpoint={"best": {"metric": "f1"}})
    with pytest.raises(Exception, match=r"checkpoint\.best\.metric = f1 is not among the evaluation's values\."):
        in_this_process(tmp_path, make_recipe(), job)[0].run()


def test_time_is_a_cadence_too(tmp_path: Path) -> None:
    recipe = make_recipe(loss=_slow)
    job = make_job(per_worker_batch_size=10, train={"epochs": 6}, checkpoint={"every": {"seconds": 0.05}, "keep": 100})
    training, around = in_this_process(tmp_path, recipe, job)
    training._hand_over.interval = EveryStep()
    training.run()
    assert len(complete_checkpoints(around.folder)) > 3


def _slow(model: Any, batch: Any) -> Any:
    sleep(0.01)
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


def test_training_does_not_stand_still_for_the_storage(tmp_path: Path) -> None:
    """Training waits only for the copy of a small model (measured: well under a millisecond), for any storage."""
    job = make_job(per_worker_batch_size=64)
    training, around = in_this_process(tmp_path, make_recipe(), job)
    around.secure = lambda samples_seen, give_up: sleep(0.5)  # type: ignore[method-assign]
    training.run()
    events = [event for event in around.events if event.kind == "checkpointed"]
    first, last = events[0], events[-1]
    assert first.samples_seen == 250
    assert first.seconds >= 0.5
    assert first.stall_s < 0.4
    assert last.samples_seen == 750, "the last one is waited for"


def test_a_checkpoint_counts_only_when_its_records_are_there(tmp_path: Path) -> None:
    def never(samples_seen: int, *, give_up: Any) -> None:
        raise ClusterError("the collector has not answered.")

    training, around = in_this_process(tmp_path, make_recipe(), make_job(per_worker_batch_size=64))
    around.secure = never  # type: ignore[method-assign]
    with pytest.raises(RunError) as caught:
        training.run()
    assert str(caught.value) == (
        f"run {around.folder.run_id}: its last checkpoint cannot be written: the collector has not answered.\n"
        "  Free some space, or repair the storage; scaler resume continues from the previous checkpoint."
    )
    assert complete_checkpoints(around.folder) == []


def test_a_checkpoint_that_cannot_be_written_is_an_event_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(copy: Any, writer: FolderWriter, group: Any) -> None:
        if writer.samples_seen < 750:
            raise OSError(28, "No space left on device")
        save_copy(copy, writer, group)

    monkeypatch.setattr(writer, "save_copy", full)
    training, around = in_this_process(tmp_path, make_recipe(), make_job(per_worker_batch_size=64))
    training.run()
    failed = events_of({"events": around.events}, "checkpoint_failed")
    assert [event.samples_seen for event in failed] == [250, 500]
    assert failed[0].reason == "OSError: [Errno 28] No space left on device"
    assert complete_checkpoints(around.folder) == [750]


def test_the_best_by_another_metric_is_not_the_best_any_more(tmp_path: Path) -> None:
    def job(metric: str, mode: str, epochs: int) -> Any:
        best = {"every": {"epochs": 1}, "keep": 1, "best": {"metric": metric, "mode": mode}}
        return make_job(per_worker_batch_size=125, train={"epochs": epochs}, checkpoint=best)

    training, _ = in_this_process(tmp_path, make_recipe(), job("loss", "min", 2))
    training.run()
    training, around = in_this_process(tmp_path, make_recipe(), job("accuracy", "max", 3))
    training.restore(500)
    training.run()
    assert complete_checkpoints(around.folder) == [750]
    assert read_manifest(around.folder, 750)["best_of"] == ["accuracy", "max"]


def test_a_run_that_continues_only_to_end_where_it_is_is_evaluated_there(tmp_path: Path) -> None:
    def job(epochs: int) -> Any:
        return make_job(
            per_worker_batch_size=125, train={"epochs": epochs, "eval_every": {"epochs": 5}}, checkpoint={"keep": 9}
        )

    training, _ = in_this_process(tmp_path, make_recipe(), job(3))
    training.run()
    remove_checkpoint(RunFolder(str(tmp_path)), 750)
    training, around = in_this_process(tmp_path, make_recipe(), job(2))
    training.restore(500)
    training.run()
    assert [event.samples_seen for event in around.events if event.kind == "evaluated"] == [500]
    assert read_manifest(around.folder, 500)["values"] is not None
    training, around = in_this_process(tmp_path, make_recipe(), job(2))
    training.restore(500)
    training.run()
    assert not [event for event in around.events if event.kind == "evaluated"], "it is there already"
