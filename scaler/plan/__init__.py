"""The plan: a job with every number resolved for a world size, each with its reason.

``make_plan`` is pure and loads neither torch nor Ray. What ``scaler plan`` prints is what ``scaler submit`` runs.
"""

from scaler.plan.make import make_plan
from scaler.plan.model import Plan, PlanGroup, PlanOptimizer, PlanParameter, PlanWarning
from scaler.plan.phase import Phase
from scaler.plan.phases import grow, limit_micro_batches, regrow
from scaler.plan.split import needs_parameters

__all__ = [
    "Phase",
    "Plan",
    "PlanGroup",
    "PlanOptimizer",
    "PlanParameter",
    "PlanWarning",
    "grow",
    "limit_micro_batches",
    "make_plan",
    "needs_parameters",
    "regrow",
]
