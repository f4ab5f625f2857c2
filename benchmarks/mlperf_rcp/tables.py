"""The facts as rows of two tables, for the terminal and for docs/evidence.md."""

from collections.abc import Mapping, Sequence
from typing import Any

Workload = Mapping[str, Any]


def batch_rows(workloads: Sequence[Workload]) -> list[dict[str, str]]:
    """Return a row on the critical batch for each set of points."""
    rows = []
    for workload in workloads:
        critical = workload["critical_batch"]
        rows.append(
            {
                "benchmark": workload["benchmark"],
                "optimizer": optimizer(workload),
                "rounds": rounds(workload),
                "batches": f"{len(workload['batches'])}: {span(workload['batches'])}",
                "B_crit": "–" if critical["value"] is None else number(critical["value"]),
                "90 % interval": bounds(critical),
                "largest distance": "–"
                if workload["largest_residual"] is None
                else f"{100 * workload['largest_residual']:.0f} %",
                "no value, because": workload["refusal"] or "",
            }
        )
    return rows


def lr_rows(workloads: Sequence[Workload]) -> list[dict[str, str]]:
    """Return a row on the learning rates for each benchmark's newest points."""
    rows = []
    for workload in workloads:
        if not workload["is_newest"]:
            continue
        lr = workload["lr"]
        exponent = lr["exponent"]
        rows.append(
            {
                "benchmark": workload["benchmark"],
                "optimizer": optimizer(workload),
                "batches": span(workload["batches"]),
                "p of lr ~ batch^p": f"{exponent['value']:.2f} ({_interval(exponent)})",
                "linear": factor(lr["rules"]["linear"]),
                "sqrt": factor(lr["rules"]["sqrt"]),
                "none": factor(lr["rules"]["none"]),
                "batch^p": factor(lr["rules"]["power"]),
                "gain": factor(lr["rules"].get("gain")),
                "closest": f"{lr['closest']} ({extent(lr['rules'][lr['closest']])})",
                "auto": f"{lr['auto']} ({extent(lr['rules'][lr['auto']])})",
                "rules of MLPerf": lr["bound_by"] or "",
            }
        )
    return rows


def optimizer(workload: Workload) -> str:
    """Return the optimizer's name without its path."""
    return str(workload["optimizer"]).split(":")[-1].lower()


def rounds(workload: Workload) -> str:
    """Return ``1.0 to 3.1``."""
    first, last = (workload["rounds"][index].removesuffix(".0") for index in (0, -1))
    return str(first) if first == last else f"{first} to {last}"


def span(batches: Sequence[int]) -> str:
    """Return ``16 to 128``."""
    return f"{batches[0]:,} to {batches[-1]:,}"


def number(value: float) -> str:
    """Return a number with three digits and separators."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 1000 else f"{value:.3g}"


def bounds(ends: Mapping[str, float | None]) -> str:
    """Return ``72 to 98``, ``at least 72``, ``at most 98`` or ``–``."""
    low, high = ends["low"], ends["high"]
    if low is None and high is None:
        return "–"
    if high is None:
        return f"at least {number(low or 0)}"
    return f"at most {number(high)}" if low is None else f"{number(low)} to {number(high)}"


def _interval(ends: Mapping[str, float | None]) -> str:
    return " to ".join("–" if end is None else f"{end:.2f}" for end in (ends["low"], ends["high"]))


def factor(rule: Mapping[str, Any] | None) -> str:
    """Return the typical factor between a rule's learning rate and the chosen one."""
    return "–" if rule is None else f"{rule['typical_factor']:.2f}"


def extent(rule: Mapping[str, Any]) -> str:
    """Return up to which batch a rule holds."""
    if rule["breaks_at"] is None:
        return f"holds to {rule['holds_to']:,}"
    if rule["holds_to"] is None:
        return f"fails at {rule['breaks_at']:,}"
    return f"holds to {rule['holds_to']:,}, fails at {rule['breaks_at']:,}"
