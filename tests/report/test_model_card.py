"""The model card of exported weights."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from synthetic import SyntheticRun

from scaler.report.run.model_card import ExportedFile, model_card

FILE = ExportedFile(
    name="digits.safetensors",
    format="safetensors",
    size=104_936,
    sha256="0" * 64,
    tensors=6,
    elements=26_122,
    is_average=True,
    has_average=True,
    scaler="0.1.0",
)


def card(run: SyntheticRun, file: ExportedFile = FILE, **values: float) -> str:
    manifest = {"plan": run.plan.to_dict(), "samples_seen": 200, "values": values or None}
    return model_card(run.report(), run.job, manifest, file)


def test_the_card_of_a_run(synthetic_run: SyntheticRun, golden: Callable[[str, str], None]) -> None:
    run = synthetic_run.attempt(0, stop=96).died(1).later(3.2).attempt(1, start=64)
    run = run.evaluated(200, loss=0.6931, ema_loss=0.61)
    golden("model-card.md", card(run, loss=0.6931, ema_loss=0.61))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "| weights | moving average of the weights (train.ema) |"),
        ({"is_average": False}, "| weights | of the last step, not their moving average (train.ema) |"),
        ({"is_average": False, "has_average": False}, "| weights | of the last step |"),
        ({"format": "torch", "name": "d.pt"}, '```\nmodel.load_state_dict(torch.load("d.pt", weights_only=True))\n```'),
    ],
)
def test_the_card_says_which_weights_the_file_holds(
    synthetic_run: SyntheticRun, changes: dict[str, object], text: str
) -> None:
    made = card(synthetic_run.attempt(0), replace(FILE, **changes))  # type: ignore[arg-type]
    assert text in made
    assert "| at this checkpoint | no evaluation |" in made
    assert ("ema" in made.split("## Results")[1]) == (changes.get("has_average") is not False)
