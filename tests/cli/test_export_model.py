"""``scaler export-model``: what it writes and prints."""

from pathlib import Path

import pytest
import torch
from in_process import Scaler
from run_folders import write_run
from synthetic import SyntheticRun

from scaler.runs import RunFolder
from scaler.training.checkpoints.state import write_checkpoint

pytest.importorskip("safetensors", reason="pip install scaler[safetensors]")

WEIGHTS = {"weight": torch.ones(2, 3)}


@pytest.fixture
def run(tmp_path: Path, synthetic_run: SyntheticRun) -> RunFolder:
    """Return a run with checkpoints at 100 and 200 samples; the first is the best."""
    folder = write_run(str(tmp_path / "runs"), "one", synthetic_run.attempt(0))
    for samples, loss in ((100, 0.5), (200, 0.6)):
        state = {"model": {"weight": WEIGHTS["weight"] * samples}, "average": None, "optimizer": {"param_groups": []}}
        about = {"values": {"loss": loss}, "best_by": loss, "best_of": ["loss", "min"]}
        plan = synthetic_run.plan.to_dict()
        write_checkpoint(folder, state, {"samples_seen": samples, "plan": plan, **about})
    return folder


def test_the_file_and_its_card(scaler_command: Scaler, run: RunFolder) -> None:
    code, out, err = scaler_command("export-model", "one", "digits.safetensors")
    assert (code, out) == (0, "digits.safetensors\ndigits.md\n")
    assert err == "Run one: weights of the last step, after 200 samples\n"
    card = Path("digits.md").read_text()
    assert "| at this checkpoint: eval loss | 0.6 |" in card
    assert "| tensors | 1 tensor with 6 numbers |" in card


def test_another_checkpoint_in_torchs_format(scaler_command: Scaler, run: RunFolder) -> None:
    code, _, err = scaler_command("export-model", "last", "weights", "--which", "best", "--format", "torch", "--raw")
    assert (code, err) == (0, "Run one: weights of the last step, after 100 samples\n")
    assert torch.equal(torch.load("weights", weights_only=True)["weight"], WEIGHTS["weight"] * 100)
    assert scaler_command("export-model", "one", "weights", "--format", "torch", "--which", "200").code == 2
    assert scaler_command("export-model", "one", "weights", "--format", "torch", "--overwrite").code == 0
    assert torch.equal(torch.load("weights", weights_only=True)["weight"], WEIGHTS["weight"] * 200)


def test_a_format_alone_names_the_file_after_the_run_and_the_command_has_another_name(
    scaler_command: Scaler, run: RunFolder
) -> None:
    code, out, _ = scaler_command("export-checkpoint", "last", "--format", "torch")
    assert (code, out) == (0, "one.pt\none.md\n")
    assert torch.equal(torch.load("one.pt", weights_only=True)["weight"], WEIGHTS["weight"] * 200)
    assert "export-checkpoint" not in scaler_command("--help").out


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (
            ("one",),
            2,
            "neither a file nor a format is given.\n  Give a file such as model.safetensors; or --format torch or "
            "--format safetensors, for a file with the run's id as its name.",
        ),
        (
            ("one", "a.pt", "--which", "5"),
            5,
            "run one has no checkpoint at 5 samples.\n  It has checkpoints at these numbers of samples: 100, 200.",
        ),
        (
            ("one", "a.pt", "--ema"),
            5,
            "run one: checkpoint 200 has no average of the weights: its job has no train.ema.\n"
            "  Leave ema out, or train with train.ema.",
        ),
        (
            ("one", "a.pt", "--which", "newest"),
            2,
            "which = newest is not a checkpoint.\n  Use last, best, or the number of samples at which one was written.",
        ),
        (
            ("two", "a.pt"),
            5,
            "there is no run two, neither at this path nor in runs.\n  The newest there: one.",
        ),
    ],
)
def test_what_cannot_be_exported(
    scaler_command: Scaler, run: RunFolder, arguments: tuple[str, ...], code: int, error: str
) -> None:
    assert scaler_command("export-model", *arguments) == (code, "", f"Error: {error}\n")
    assert not Path("a.pt").exists()
