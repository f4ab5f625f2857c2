"""Describe exported weights in Markdown: which run they are from, its plan, its data and its results."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scaler.job import Job
from scaler.plan import Plan
from scaler.report.run.format import audit_text, costs, further_facts, results
from scaler.report.run.model import Report
from scaler.report.run.tokens import in_unit
from scaler.report.text.format import amount, number, optimizer_options, option, plural
from scaler.report.text.markdown import as_code, as_table, as_text

_LOAD = {
    "torch": 'model.load_state_dict(torch.load("{file}", weights_only=True))',
    "safetensors": 'safetensors.torch.load_model(model, "{file}")',
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedFile:
    """A file of weights."""

    name: str  # of the file
    format: str  # torch or safetensors
    size: int  # bytes
    sha256: str
    tensors: int  # names in the state of the model
    elements: int  # numbers in these tensors; tied weights count once
    is_average: bool  # whether it holds the moving average of the weights
    has_average: bool  # whether the checkpoint has one
    scaler: str  # version that wrote it


def model_card(report: Report, job: Job, manifest: Mapping[str, Any], file: ExportedFile) -> str:
    """Return a model card.

    Args:
        report: of the run.
        job: the newest of the run.
        manifest: of the checkpoint.
        file: that was written.
    """
    plan, samples = Plan.from_dict(manifest["plan"]), manifest["samples_seen"]
    report, epochs, seen = in_unit(report), samples / plan.num_samples, plan.units.at(samples)
    parts = [
        f"# {as_text(job.name)}",
        f"Weights of the run {as_text(report.run_id)} after {amount(seen, plan.unit)} ({number(epochs)} epochs).",
        _table(
            ("file", file.name),
            ("format", file.format),
            ("size", f"{file.size:,} bytes"),
            ("SHA-256", file.sha256),
            ("weights", _kind(file)),
            ("tensors", f"{plural(file.tensors, 'tensor')} with {file.elements:,} numbers"),
            ("written by", f"scaler {file.scaler}"),
        ),
        "The names are those of the model that the recipe builds:",
        as_code(_LOAD[file.format].format(file=file.name)),
        "## Training",
        _table(*_training(job, plan)),
        "## Results",
        _table(*_of_checkpoint(manifest), *_of_run(report)),
        *(
            ["Values whose names begin with ema\\_ are of the moving average of the weights."]
            if file.has_average
            else []
        ),
        *(["The report says:\n\n" + _verdicts(report)] if report.verdicts else []),
    ]
    return "\n\n".join(parts) + "\n"


def _kind(file: ExportedFile) -> str:
    if file.is_average:
        return "moving average of the weights (train.ema)"
    return "of the last step" + (", not their moving average (train.ema)" if file.has_average else "")


def _training(job: Job, plan: Plan) -> list[tuple[str, str]]:
    """Return how the checkpoint's attempt trained."""
    reasons, optimizer, units = plan.reasons, plan.optimizer, plan.units
    whole, batch = amount(units.at(plan.total_samples), plan.unit), units.number(plan.global_batch_size)
    return [
        ("recipe", job.recipe_function),
        *((f"recipe_args.{name}", option(value)) for name, value in job.recipe_args.items()),
        ("training set", plural(plan.num_samples, "sample")),
        ("whole training", f"{whole} in {plural(plan.total_steps, 'step')}"),
        ("workers", number(plan.world_size)),
        ("global batch", f"{batch} ({reasons['batch_ratio']})"),
        ("reference", f"batch {units.number(plan.reference_batch_size)}, lr {option(plan.base_lr)}"),
        ("peak lr", f"{option(plan.peak_lr)} ({plan.rule_reason})"),
        ("schedule", f"{plan.schedule.shape.name}, warmup of {plural(plan.warmup_steps, 'step')}"),
        ("optimizer", ", ".join(part for part in (optimizer["name"], optimizer_options(optimizer)) if part)),
        ("precision", job.train.precision),
        ("seed", str(job.train.seed)),
    ]


def _of_checkpoint(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the values of the evaluation at the checkpoint."""
    values = manifest["values"]
    if values is None:
        return [("at this checkpoint", "no evaluation")]
    return [(f"at this checkpoint: eval {name}", number(value)) for name, value in values.items()]


def _of_run(report: Report) -> list[tuple[str, str]]:
    facts = [
        ("state", report.state),
        *results(report),
        ("lr used", audit_text(report.lr_audit)),
        *costs(report),
        *further_facts(report),
    ]
    return [(f"run: {name}", value) for name, value in facts]


def _verdicts(report: Report) -> str:
    return "\n".join(f"- **{verdict.code}**: {as_text(verdict.message)}" for verdict in report.verdicts)


def _table(*rows: tuple[str, str]) -> str:
    return as_table(("", ""), [(as_text(name), as_text(value)) for name, value in rows])
