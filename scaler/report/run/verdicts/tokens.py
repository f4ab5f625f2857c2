"""The verdicts on the tokens that the losses counted, against the planned ones."""

from scaler.core.unit import shown
from scaler.plan import Plan
from scaler.report.run.model import Totals, Verdict
from scaler.report.text.format import percent

FEW_REAL = 0.8  # of the planned tokens
TOO_MANY_REAL = 1.01  # of the planned tokens; the weights of a loss are rounded


def tokens_off(totals: Totals, plan: Plan) -> Verdict | None:
    """Return a verdict if the losses counted many fewer tokens than planned, which are padding, or more of them.

    None if the job counts samples, or if the loss returns no weight.
    """
    if totals.real_tokens is None or not totals.tokens_seen:
        return None
    share, planned = totals.real_tokens / totals.tokens_seen, plan.tokens_per_sample or 1
    evidence = f"the weights of the losses add up to {shown(totals.real_tokens)} of {shown(totals.tokens_seen)} tokens"
    if share > TOO_MANY_REAL:
        return Verdict(
            code="tokens_beyond_plan",
            rank=None,
            message=f"The losses counted {share:.4g} times the planned tokens: the batch is larger than the plan's.",
            evidence=evidence,
            next=f"A sample has more than the {planned:,} tokens of train.tokens_per_sample: correct it, "
            "because the learning rate follows the planned batch. Or the weight that a loss returns is not its "
            "tokens.",
        )
    if share < FEW_REAL:
        return Verdict(
            code="padded_tokens",
            rank=None,
            message=f"Padding wastes {percent(1.0 - share)} of the planned tokens.",
            evidence=evidence,
            next="Pack several texts into a sample. Or plan with the real tokens of a mean sample "
            f"(train.tokens_per_sample: about {max(1, round(share * planned))}): the learning rate "
            "follows the planned batch, and the real batch is smaller.",
        )
    return None
