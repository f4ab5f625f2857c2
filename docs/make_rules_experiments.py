"""Write docs/rules-experiments.md: the experiments of benchmarks/rules, with the figures of their reports.

`make docs` runs it. The figures are read from the pages in docs/measured, which `scaler experiment report --markdown`
wrote. The findings are written here, and their verdicts are compared with those of the pages.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parent
PAGE = DOCS / "rules-experiments.md"

INTRO = """# Today's rules, measured

Each section is one experiment; `scaler experiment run` with its file runs it again. Seeds, margins, endpoints and
controls were committed in these files before the first run; where a first run showed that the reference was not the
best of its sweep, the file says so, and has another reference and other seeds. Differences are to the baseline,
paired by seed, and all intervals of a table together hold 90 % (Holm). "As good" means that the upper end of the
interval is below the margin of 0.02 nats of held-out loss: not worse by more than that. Each page behind a link has
the sweep of the reference's learning rate. It is the best of those that were tried, which lie on both sides of it;
for weight decay, twice the learning rate and three times the decay are equal within the noise.

`digits` is a multilayer perceptron with 9,000 parameters on 1,280 images, `charlm` a GPT with 2 layers of width 32 on
characters of Python's help texts. Both are small: a rule that fails here may hold for a large model, and the other way
round.
"""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One experiment: what it asks, and what its runs say."""

    name: str  # of the file in benchmarks/rules
    title: str
    finding: str  # a few sentences; Markdown
    verdicts: Mapping[str, str]  # setting -> the verdict that the finding rests on


QUESTIONS = (
    Question(
        name="horizon_digits",
        title="The horizon: tuned for 5 epochs, trained for 40 (digits, AdamW)",
        finding="`scale.horizon: true` divides the learning rate by 2.8, weight decay by 2.8 and 1 - beta by 8. **It "
        "lost here.** The best learning rate of 40 epochs is that of 5 epochs, and the law's is worse than "
        "nothing. The learning rate of the law alone, with weight decay and betas as they were, is as good as "
        "nothing. The control, a learning rate 2.8 times higher, is worse.",
        verdicts={"horizon true": "worse", "horizon false, lr 0.00566": "as good", "horizon false, lr 0.045": "worse"},
    ),
    Question(
        name="horizon_charlm",
        title="The horizon: tuned for half an epoch, trained for 4 (charlm, AdamW)",
        finding="**The law lost by far**, and by more than its learning rate alone. Over 8 times the length the best "
        "learning rate is twice as high, not 2.8 times lower; the control, 2.8 times higher, is as good as "
        "nothing. Half an epoch is 200 steps, in which the model hardly leaves the first phase of its "
        "training; the law is derived for trainings that are dominated by the gradient's noise. So nothing "
        "recommends `scale.horizon` here: `auto` never chooses it, and the plan's warning says to tune the "
        "reference at about the length that you train for.",
        verdicts={"horizon true": "worse", "horizon false, lr 0.00141": "worse", "horizon false, lr 0.0113": "as good"},
    ),
    Question(
        name="beta2",
        title="beta2 scaled down: from batch 64 to 4 (charlm, AdamW)",
        finding="**Holding beta2's half-life, 0.95 to 0.9968, ends 0.03 lower than leaving beta2 as it is**, with the "
        "square root for the learning rate. Without a rule for the learning rate the runs do not tell the two "
        "apart. `adam_sde` is far worse: it makes beta1 longer, too, from 0.9 to 0.994. The control, beta2 = "
        "0.5, is worse, and some of its runs failed. At batch 4 every setting but these two ends far below "
        "the reference: more steps help this model. `co_scale.beta2: half_life` is worth a try when AdamW is "
        "scaled down; it stays off by default.",
        verdicts={
            "batch 4, rule sqrt, beta2 half_life": "better",
            "batch 4, rule none, beta2 null": "undecided",
            "batch 4, rule adam_sde, beta2 null": "worse",
            "batch 4, rule sqrt, beta2 null, betas [0.9, 0.5]": "worse",
        },
    ),
    Question(
        name="adam_constants",
        title="AdamW from batch 8 to 64: betas and eps with the square root, or not (digits)",
        finding="From the best learning rate, **the square root alone is as good as the reference; with betas and eps "
        "scaled as `adam_sde` does, it is worse**, and linear (the control) is worse still. The betas of the "
        "reference are 0.9 and 0.99, so `adam_sde` leaves a beta1 of 0.2. `none` is as good within the "
        "margin, too: on this task 8 times the batch needs hardly another learning rate. For the [GPT at 4 "
        "times the batch](measured/charlm-scaling.md) it was the other way round: there `adam_sde` was as "
        "good, and the square root alone was not. So `auto` chooses the square root alone, and `adam_sde` "
        "must be tried.",
        verdicts={
            "batch 64, rule sqrt": "as good",
            "batch 64, rule adam_sde": "worse",
            "batch 64, rule adam_sde, betas power": "worse",
            "batch 64, rule linear": "worse",
            "batch 64, rule none": "as good",
        },
    ),
    Question(
        name="muon",
        title="Muon at 4 and 16 times the batch (charlm)",
        finding="Muon trains the matrices of the blocks, AdamW the rest; one rule scales both. **No rule reaches the "
        "reference.** At 4 times the batch linear loses least, at 16 times the square root; `none` loses most "
        "at both. `auto` keeps the square root, which [convergence "
        "bounds](https://leloykun.github.io/ponder/steepest-descent-crit-bz/) give too.",
        verdicts={
            "batch 32, rule sqrt": "worse",
            "batch 32, rule linear": "worse",
            "batch 32, rule none": "worse",
            "batch 128, rule sqrt": "worse",
            "batch 128, rule linear": "worse",
            "batch 128, rule none": "worse",
        },
    ),
    Question(
        name="lion",
        title="Lion from batch 8 to 64 (digits)",
        finding="**All three rules lose**, linear least and `none` most. At batch 64 the best of the learning rates "
        "that were tried without a rule is 4 times the reference's, between the square root and linear. So "
        "`auto` refuses Lion: tune it at the batch that you train with.",
        verdicts={"batch 64, rule sqrt": "worse", "batch 64, rule linear": "worse", "batch 64, rule none": "worse"},
    ),
    Question(
        name="instead_sgd",
        title="The batch instead of the learning rate: SGD with momentum, linear (digits)",
        finding="**A batch that grows up to 16 times, where the cosine would lower the learning rate, is as good at "
        "equal samples**, with 38 % fewer steps (1,992 instead of 3,200). The control with 16 times the batch "
        "from the start and no rule is worse. The other control, a constant learning rate, is as good within "
        "the margin: this task does not need the decay, so it shows that nothing is lost, not that something "
        "is gained.",
        verdicts={
            "rule linear, batch_schedule instead_of_decay (max_global_batch_size 128)": "as good",
            "rule linear, batch_schedule null, schedule constant (warmup {epochs: 0})": "as good",
            "rule none, batch_schedule null, batch 128": "worse",
        },
    ),
    Question(
        name="instead_adamw",
        title="The batch instead of the learning rate: AdamW, square root (digits)",
        finding="**The same for Seesaw's rule: as good at equal samples, with 38 % fewer steps.** Here the decay "
        "matters: the control with a constant learning rate is worse. With the linear rule the learning rate "
        "does not fall, which breaks Seesaw's condition; it did no harm here.",
        verdicts={
            "rule sqrt, batch_schedule instead_of_decay (max_global_batch_size 128)": "as good",
            "rule sqrt, batch_schedule null, schedule constant (warmup {epochs: 0})": "worse",
            "rule linear, batch_schedule instead_of_decay (max_global_batch_size 128)": "as good",
        },
    ),
    Question(
        name="weight_decay",
        title="Weight decay at 8 times the batch, over 60 epochs (digits, AdamW)",
        finding="**Holding the timescale of weight decay is as good as leaving weight decay as it is**: 0.006 lower, "
        "with an interval that includes 0. The controls, no weight decay and 10 times as much, are worse. So "
        "`co_scale.weight_decay` stays off by default, and a plan warns where the timescale moves more than "
        "twofold. The reference lies on a flat part: twice its learning rate, and three times its weight "
        "decay, are as good.",
        verdicts={
            "batch 64, rule sqrt, weight_decay true": "as good",
            "batch 64, rule sqrt, weight_decay false, weight_decay 0": "worse",
            "batch 64, rule sqrt, weight_decay false, weight_decay 1": "worse",
        },
    ),
)


def page() -> str:
    """Return the page."""
    return INTRO + "".join(_section(question) for question in QUESTIONS)


def quality(name: str) -> list[str]:
    """Return the lines of the table of a report's quality: setting, peak lr, loss, difference, verdict."""
    text = (DOCS / "measured" / measured(name)).read_text()
    _, _, rest = text.partition("## Quality: ")
    lines = rest.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("|"))
    return lines[start : start + next(n for n, line in enumerate(lines[start:]) if not line.startswith("|"))]


def measured(name: str) -> str:
    """Return the file name of an experiment's report."""
    return f"rules-{name.replace('_', '-')}.md"


def _section(question: Question) -> str:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in quality(question.name)]
    found = {row[0].replace("\\", ""): row[-1] for row in cells}
    for setting, verdict in question.verdicts.items():
        assert found[setting] == verdict, f"{question.name}: {setting} is {found[setting]}, not {verdict}"
    links = f"[`benchmarks/rules/{question.name}.yaml`](../benchmarks/rules/{question.name}.yaml)"
    table = "\n".join(quality(question.name))
    report = f"[whole report](measured/{measured(question.name)})"
    return f"\n## {question.title}\n\n{question.finding}\n\n{links}, {report}.\n\n{table}\n"


if __name__ == "__main__":
    PAGE.write_text(page())
