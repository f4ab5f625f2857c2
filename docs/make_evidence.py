"""Write docs/evidence.md and its pictures from benchmarks/mlperf_rcp/facts.json. `make docs` runs it.

A test compares the page with the facts, and the facts with the files of MLCommons where these are at hand.
"""

import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scaler.core.optimizers import ADAPTIVE, LAYERWISE, SGD_FAMILY, optimizer_facts
from scaler.core.rules import Rule, lr_ratio

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "docs")]

from make_rules_experiments import QUESTIONS, measured  # noqa: E402
from mlperf_rcp.tables import batch_rows, lr_rows, number  # noqa: E402
from table import table  # noqa: E402

PAGE = ROOT / "docs/evidence.md"
PICTURES = ROOT / "docs/pictures"
FACTS = ROOT / "benchmarks/mlperf_rcp/facts.json"
FAMILIES = {"SGD": SGD_FAMILY, "Adam and Adagrad": ADAPTIVE, "LARS and LAMB": LAYERWISE}
COLOURS = {"SGD": "#d55e00", "Adam and Adagrad": "#0072b2", "LARS and LAMB": "#009e73"}
MARKERS = "osD^vPX<>*ph"

INTRO = """# The rules against MLPerf

Written by `python docs/make_evidence.py` from `benchmarks/mlperf_rcp/facts.json`.

## The question

Which learning rates do experts choose when they train one model at several batch sizes, and do scaler's rules give the
same? And how far can the batch grow on public workloads?

## The data

Vendors tune each benchmark of MLPerf training at several batch sizes, and train it 6 to 200 times at each until it
reaches a fixed quality. MLCommons publishes the settings and the data that each run needed, as reference convergence
points: [mlcommons/logging](https://github.com/mlcommons/logging), folder `mlperf_logging/rcp_checker`, commit 7bbf792,
Apache License 2.0, copyright MLCommons. This project has figures that were computed from the files, and not the files.
To compute them again, give the folder of the files: `python benchmarks/mlperf_rcp FOLDER --write`.

Points recur from round to round; each set counts once, and the newest set of a benchmark is used. The optimizers, and
the limits that the rules of MLPerf set to the learning rate, are from the compliance checker of the same commit and
from the [training rules](https://github.com/mlcommons/training_policies/blob/master/training_rules.adoc).

## The method

**Critical batch.** E(B) = E_min (1 + B / B_crit) is fitted to the data E that a batch B needs (McCandlish et al. 2018),
by least squares of logarithms. A batch of B_crit needs twice the data of a small one. Each batch size is one point,
however many runs it has; [decision 53](decisions/0053-intervals-of-fits.md) says why. There is no value where the
interval ends more than 10 times outside the measured batches.

**Learning rates.** The smallest batch is the reference. Each rule of scaler then gives a learning rate for each larger
batch. The table has the typical factor between this and the chosen one (root mean square of the logarithms; 1.00 is
exact). A rule "holds to" the last batch before the first one where it is off by more than a factor of 1.5. `p` is
fitted to all batches of a benchmark: 1 is the linear rule and 0.5 the square root. The column batch^p has `rule: power`
with this p. `gain` is scaler's rule of that name with B_crit as the noise scale. "Closest" is the closest of the rules
but `power`, which is fitted to the learning rates themselves. All intervals are at 90 %.

"""
EXPERIMENTS = """
## The rules in experiments

What practitioners tuned says which learning rates they liked, not what another one would have cost. The experiments of
[rules-experiments.md](rules-experiments.md) compare the rules with each other, with seeds, margins and controls that
were fixed before the first run:

{experiments}
"""
SHARDED = """
## Memory of sharded training

[measured/sharded-memory.md](measured/sharded-memory.md): a worker's memory with a copy of a model and with a part of
it, and what a checkpoint costs.
"""
BATCHES = """## How far the batch can grow

The critical batch is identified for {known} of {all} workloads. It is {smallest} to {largest}.
The curve describes the data: the largest distance of a batch size from it is at most 6 % for {near} of the {known}, and
{worst} for the worst.

The curve through the other batches predicts the data that the largest batch needs: within the 90 % interval for
{inside} of the {tried} workloads with 4 batches or more, and within {median:.0f} % in the median. It fails for
{outside}.

{table}

![The data needed over the batch, in units of E_min and B_crit, with the curve](pictures/evidence-batch.svg)

"""
FOLLOWED = """## Which rule the learning rates follow

For {free} workloads vendors could choose the learning rate; for the other {fixed} the rules of MLPerf fix it.

- **`auto` is within a factor of 1.5 at every batch for {holds} of the {free}** ({holding}). In the median it
  holds to {times:.1f} times the smallest batch. Where it fails, it is too high for {high} of {failing}.
- **SGD: linear is right for Mask R-CNN**, exactly from 8 to 128. It is not for DLRM (3 points), which is nearer to the
  square root, and not for U-Net, whose learning rate does not rise. SSD has too few points to tell.
- **Adaptive and layer-wise optimizers: the square root is more often an upper bound than the rule.** The interval of p
  lies below 0.5 for {below} of {others} workloads, and above it for {above}. Below it are
  {names_below}.
- **`gain` at the critical batch is nearer than `auto` for {better} of the {with_gain} workloads** that have one.
  It raises the learning rate less where a larger batch helps less. `auto` is nearer for {worse}.

{table}

![The learning rates that were chosen, relative to the smallest batch](pictures/evidence-lr.svg)

"""
LOSSES = """## Where our rules lose

The first batch at which `auto` is off by more than a factor of 1.5. In the median this is {share:.2f} times the
critical batch, so a rule is not safe up to the critical batch.

{table}

- Llama 3.1 8B with AdamW went from 4e-4 at batch 16 to 8e-4 at 32 and at 64: linear for one doubling, then flat. The
  square root is 1.41 too low at 32 and exact at 64. At 128 vendors chose 2e-3, and the square root gives 1.13e-3.
- Llama 3.1 405B with AdamW is linear by the rules of MLPerf. `auto` gives half of that at 4 times the batch.
- Stable Diffusion lowers the learning rate as the batch grows. Its points at 1,024 and 2,048 are from round 3.1; those
  at 256 to 512 were tuned again in round 5.0. No rule of scaler lowers the learning rate.
- DLRM v2 with Adagrad keeps one learning rate from 32,768 to 102,400 and at 160,000. `rule: none` is right there.

What follows for a user: `auto` is a start for the first doublings of the batch. For more, try several learning rates at
the new batch, or use `rule: gain` once the critical batch is known.

## Limits

- A vendor chooses a learning rate that is good enough to win, not the best one. Vendors take settings from each other,
  and change warmup, decay and weight decay with the batch too.
- The reference is one point. If its learning rate is not well tuned, every rule is off by the same factor at all other
  batches. `p` does not depend on the reference.
- For three benchmarks the rules of MLPerf fix the learning rate as a function of the batch. These say what the authors
  of the benchmark believe, and not what was found by tuning. For two more they allow few values.
- Many benchmarks evaluate rarely, so the data needed are known in coarse steps. DeepSeek V3 takes 47 steps at each of
  its batches, which lie within a factor of 1.2: its points do not tell a critical batch.
- B_crit is that of the whole run to the target, at the tuned settings. It is not the gradient noise scale.
- One of {runs:,} runs is left out as a typing error: one of GPT-3 at batch 3,072 has 11 times the data of the others.
  For SSD at batch 1,536 the file has the learning rate before its scaling; this learning rate is left out.
"""

Workload = Mapping[str, Any]


def page() -> str:
    """Return the page."""
    workloads = json.loads(FACTS.read_text())["workloads"]
    newest = [workload for workload in workloads if workload["is_newest"]]
    parts = INTRO, _batches(newest), _learning_rates(newest), _losses(newest)
    links = "\n".join(f"- [{question.title}](measured/{measured(question.name)})" for question in QUESTIONS)
    return "".join(parts) + EXPERIMENTS.format(experiments=links) + SHARDED


def _batches(newest: Sequence[Workload]) -> str:
    known = sorted(
        (one for one in newest if one["critical_batch"]["value"] is not None),
        key=lambda one: one["critical_batch"]["value"],
    )
    tried = [one for one in newest if one["held_out"] is not None]
    errors = [abs(one["held_out"]["value"] / one["held_out"]["found"] - 1) for one in tried]
    outside = [one for one in tried if not one["held_out"]["is_inside"]]
    worst = max(known, key=lambda one: one["largest_residual"])
    return BATCHES.format(
        known=len(known),
        all=len(newest),
        smallest=_critical(known[0]),
        largest=_critical(known[-1]),
        near=sum(one["largest_residual"] <= 0.065 for one in known),
        worst=f"{100 * worst['largest_residual']:.0f} % ({worst['benchmark']})",
        inside=len(tried) - len(outside),
        tried=len(tried),
        median=100 * statistics.median(errors),
        outside=", ".join(
            f"{one['benchmark']} ({100 * (one['held_out']['value'] / one['held_out']['found'] - 1):+.0f} %)"
            for one in outside
        ),
        table=table(batch_rows(newest)),
    )


def _learning_rates(newest: Sequence[Workload]) -> str:
    free = [one for one in newest if not str(one["lr"]["bound_by"]).startswith("fixed")]
    failing = [one for one in free if _auto(one)["breaks_at"] is not None]
    holding = [one for one in free if one not in failing]
    others = [one for one in free if one["optimizer"] != "sgd"]
    below = [one for one in others if one["lr"]["exponent"]["high"] < 0.5]
    with_gain = [one for one in free if "gain" in one["lr"]["rules"]]
    better = [one for one in with_gain if _typical(one, "gain") < _typical(one, one["lr"]["auto"])]
    return FOLLOWED.format(
        free=len(free),
        fixed=len(newest) - len(free),
        holds=len(holding),
        holding=_names(holding),
        times=statistics.median((_auto(one)["holds_to"] or one["batches"][0]) / one["batches"][0] for one in free),
        high=sum(_at_the_break(one)[1] > _at_the_break(one)[0] for one in failing),
        failing=len(failing),
        below=len(below),
        others=len(others),
        names_below=_names(below),
        above=sum(one["lr"]["exponent"]["low"] > 0.5 for one in others) or "none",
        better=len(better),
        with_gain=len(with_gain),
        worse=_names([one for one in with_gain if one not in better]),
        table=table(lr_rows(newest)),
    )


def _losses(newest: Sequence[Workload]) -> str:
    rows = []
    for one in newest:
        breaks_at, critical = _auto(one)["breaks_at"], one["critical_batch"]["value"]
        if breaks_at is None:
            continue
        chosen, given = _at_the_break(one)
        factor = f"{max(given / chosen, chosen / given):.2f}"
        first = one["points"][0]
        rows.append(
            {
                "benchmark": one["benchmark"],
                "reference": f"{first['lr']:.3g} at {first['batch']:,}",
                "batch": f"{breaks_at:,}",
                "in units of B_crit": "–" if critical is None else f"{breaks_at / critical:.2f}",
                "chosen": f"{chosen:.3g}",
                "`auto`": f"{given:.3g} ({one['lr']['auto']})",
                "`auto` is": f"{factor} times too {'high' if given > chosen else 'low'}",
            }
        )
    runs = sum(point["runs"] + point["left_out"] for one in newest for point in one["points"])
    shares = [
        _auto(one)["breaks_at"] / one["critical_batch"]["value"]
        for one in newest
        if _auto(one)["breaks_at"] is not None and one["critical_batch"]["value"] is not None
    ]
    return LOSSES.format(table=table(rows), share=statistics.median(shares), runs=runs)


def _auto(one: Workload) -> Mapping[str, Any]:
    found: Mapping[str, Any] = one["lr"]["rules"][one["lr"]["auto"]]
    return found


def _typical(one: Workload, rule: str) -> float:
    return float(one["lr"]["rules"][rule]["typical_factor"])


def _at_the_break(one: Workload) -> tuple[float, float]:
    """Return the chosen learning rate where ``auto`` fails, and that of ``auto``."""
    batch = _auto(one)["breaks_at"]
    chosen = next(point["lr"] for point in one["points"] if point["batch"] == batch)
    return chosen, _given(one, one["lr"]["auto"], batch)


def _given(one: Workload, rule: str, batch: int) -> float:
    """Return the learning rate that a rule of scaler gives from the smallest batch."""
    first = one["points"][0]
    ratio = lr_ratio(
        Rule(name=rule),
        batch_ratio=batch / first["batch"],
        reference_batch_size=first["batch"],
        optimizer=one["optimizer"],
    )
    return float(first["lr"] * ratio)


def _critical(one: Workload) -> str:
    return f"{number(one['critical_batch']['value'])} ({one['benchmark']})"


def _names(some: Sequence[Workload]) -> str:
    return ", ".join(one["benchmark"] for one in some)


def draw() -> None:
    """Write the two pictures."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "scaler", "font.size": 9, "font.family": "sans-serif"})
    newest = [one for one in json.loads(FACTS.read_text())["workloads"] if one["is_newest"]]

    figure, axes = plt.subplots(figsize=(7.2, 4.4))
    shares = [10 ** (step / 40) for step in range(-120, 41)]
    axes.plot(shares, [1 + share for share in shares], color="#333333", linewidth=1, label="1 + B / B_crit")
    for one, colour, marker in _drawn(newest):
        if one["critical_batch"]["value"] is None:
            continue
        x = [point["batch"] / one["critical_batch"]["value"] for point in one["points"]]
        y = [point["amount"] / one["fewest"]["value"] for point in one["points"]]
        axes.plot(x, y, color=colour, marker=marker, markersize=4, linestyle="none", alpha=0.85, label=one["benchmark"])
    axes.set(xscale="log", yscale="log", xlabel="batch / B_crit", ylabel="data to the target / E_min", xlim=(0.008, 6))
    axes.set_ylim(0.8, 8)
    axes.set_yticks([1, 2, 4], ["1", "2", "4"])
    axes.set_yticks([], minor=True)
    axes.set_xticks([0.01, 0.1, 1], ["0.01", "0.1", "1"])
    axes.legend(frameon=False, fontsize=7, ncols=2, loc="upper left")
    _save(figure, axes, "evidence-batch.svg")

    figure, panels = plt.subplots(1, 3, figsize=(10, 5), sharey=True)
    for (title, family), panel in zip(FAMILIES.items(), panels, strict=True):
        panel.plot([1, 70], [1, 70], color="#333333", linewidth=1)
        panel.plot([1, 70], [1, 70**0.5], color="#333333", linewidth=1, linestyle="--")
        panel.annotate("linear", (24, 31), fontsize=7, rotation=45, ha="center", va="center")
        panel.annotate("square root", (36, 4.9), fontsize=7, rotation=26, ha="center", va="center")
        for one, colour, marker in _drawn(newest):
            if optimizer_facts(one["optimizer"]).family is not family:
                continue
            points = [point for point in one["points"] if point["lr"] is not None]
            x = [point["batch"] / points[0]["batch"] for point in points]
            y = [point["lr"] / points[0]["lr"] for point in points]
            is_fixed = str(one["lr"]["bound_by"]).startswith("fixed")
            label = f"{one['benchmark']}{' (fixed)' if is_fixed else ''}"
            panel.plot(
                x,
                y,
                color=colour,
                marker=marker,
                markersize=4,
                linewidth=0.8,
                alpha=0.45 if is_fixed else 0.9,
                label=label,
            )
        panel.set(
            xscale="log", yscale="log", title=title, xlabel="batch / smallest batch", xlim=(0.9, 80), ylim=(0.3, 80)
        )
        panel.set_xticks([1, 4, 16, 64], ["1", "4", "16", "64"])
        panel.set_yticks([0.5, 1, 4, 16, 64], ["0.5", "1", "4", "16", "64"])
        panel.minorticks_off()
        panel.legend(frameon=False, fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    panels[0].set_ylabel("learning rate / that of the smallest batch")
    _save(figure, panels, "evidence-lr.svg")


def _drawn(newest: Sequence[Workload]) -> Iterator[tuple[Workload, str, str]]:
    """Yield each workload with its colour and marker: a colour for a family, a marker within it."""
    counts = dict.fromkeys(FAMILIES, 0)
    for one in newest:
        title = next(title for title, family in FAMILIES.items() if optimizer_facts(one["optimizer"]).family is family)
        yield one, COLOURS[title], MARKERS[counts[title] % len(MARKERS)]
        counts[title] += 1


def _save(figure: Any, axes: Any, name: str) -> None:
    for each in axes if hasattr(axes, "__iter__") else [axes]:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(color="#dddddd", linewidth=0.6)
    figure.tight_layout()
    figure.savefig(PICTURES / name, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    PAGE.write_text(page())
    draw()
