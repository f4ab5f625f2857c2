"""Write docs/auto.md: what ``rule: auto`` says of every optimizer, why, and what was measured. `make docs` runs it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from scaler.core.optimizers import NAMED_OPTIMIZERS, OPTIMIZERS, OptimizerFacts, optimizer_facts
from scaler.core.rules import choose_rule
from scaler.errors import PlanError

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).parent / "auto.md"
sys.path.append(str(ROOT / "benchmarks"))

from table import table  # noqa: E402

INTRO = """# What `auto` chooses, and what stands behind it

`make docs` writes this page from the table of optimizers that the plan uses, so the page says what the plan does. It
has every optimizer of torch 2.13, and those of the extra `scaler[optimizers]` (the package pytorch_optimizer) that
scaler knows. `auto` refuses every other class, because a guess would be silent: name a rule, and measure it with an
experiment.

A rule that was not measured here rests on the paper or the analogy in the column "why" alone.

"""
# Optimizer -> what was measured with it, by the path of its class. The figures are in the pages.
MEASURED: dict[str, str] = {
    "torch.optim:SGD": "[linear holds up to a sixteenth of the best learning rate](rules-measured.md), and "
    "[up to 8 times the batch for accuracy](measured/digits-scaling.md)",
    "torch.optim:Muon": "[sqrt loses less than none at 4 and 16 times the batch; linear loses less at 4 times, more "
    "at 16](measured/rules-muon.md)",
    "pytorch_optimizer:Lion": "[sqrt, linear and none all lose at 8 times the batch](measured/rules-lion.md)",
    "torch.optim:Adam": "[sqrt with betas and eps tracks the reference from batch 1 to 8](rules-measured.md)",
    "torch.optim:AdamW": "[sqrt is as good as the reference at 8 times the batch on digits, adam_sde and linear are "
    "worse](measured/rules-adam-constants.md); [a small GPT at 4 times](measured/charlm-scaling.md): sqrt loses 0.05 "
    "nats, adam_sde nothing",
}


def page() -> str:
    """Return the page."""
    return f"{INTRO}{table(list(_rows()))}\n"


def torch_optimizers() -> list[str]:
    """Return the import paths of torch's optimizers."""
    found = [getattr(torch.optim, name) for name in torch.optim.__all__]
    return [
        f"torch.optim:{kind.__name__}" for kind in found if isinstance(kind, type) and kind is not torch.optim.Optimizer
    ]


def _rows() -> Iterator[dict[str, str]]:
    names = {row.path: row.name for row in NAMED_OPTIMIZERS.values()}
    paths = [*torch_optimizers(), *(row.path for row in OPTIMIZERS.values() if not row.path.startswith("torch."))]
    for path in paths:
        facts = optimizer_facts(names.get(path, path))
        shown = f"`{facts.name}`" if facts.name == path else f"`{facts.name}` ({path.partition(':')[2]})"
        rule, why = _says(facts)
        yield {"optimizer": shown, "`auto` says": rule, "why": why, "measured here": MEASURED.get(path, "–")}


def _says(facts: OptimizerFacts) -> tuple[str, str]:
    """Return the rule and the reason, or why there is none."""
    try:
        rule, reason = choose_rule("auto", optimizer=facts.name)
    except PlanError as error:
        return "refused", facts.no_auto or error.remedy
    return f"`{rule}`", reason.removeprefix(f"{facts.name}: ")


if __name__ == "__main__":
    PAGE.write_text(page())
