"""The jobs of a probe: the run at its own batch, up to a place, and the branches from there."""

from scaler.core.steps import next_step_start
from scaler.errors import JobFileError, PlanError
from scaler.job import Job, parse_job
from scaler.job.section import MOST
from scaler.plan import Plan, make_plan
from scaler.plan.kept_lengths import require_same_lengths

SUFFIX = "-probe"
MOST_NAME = 100  # letters in a job's name
FEWEST_STEPS = 4  # of a branch with the largest batch
DEFAULT_STEPS, DEFAULT_SHARE = 256, 0.2  # of a branch at the run's batch; the fewer samples count


def require_one_batch(job: Job, plan: Plan) -> None:
    """Refuse a job whose batch or whose progress is not fixed.

    Raises:
        JobFileError: the job is elastic, its batch changes, its progress is measured, or it stops early.
    """
    if job.scale.is_elastic:
        raise JobFileError("a probe compares batches at one number of workers, and the job is elastic.", "--workers N")
    if plan.is_measured:
        raise JobFileError(
            "scale.rule = adascale measures progress, and a probe compares losses after the same samples.",
            "Probe with another rule: --set scale.rule=linear",
        )
    if job.train.sequence_lengths:
        raise JobFileError(
            "train.sequence_lengths changes the samples of a batch, and a probe compares batches of one length.",
            "Leave it out: --set train.sequence_lengths=[]",
        )
    if job.scale.batch_schedule is not None:
        raise JobFileError(
            "the job has a batch_schedule, and a probe finds one.", "Leave it out: --set scale.batch_schedule=null"
        )


def reference_job(job: Job, plan: Plan) -> tuple[Job, Plan]:
    """Return the job at the reference's batch over the same samples, and its plan.

    Args:
        job: what is to be scaled.
        plan: its plan.

    Raises:
        JobFileError: a length in steps would be another number of samples.
    """
    values = whole_job(job, plan).model_dump()
    scale = {**values["scale"], "global_batch_size": job.reference.global_batch_size, "grad_accum_steps": None}
    made = parse_job({**values, "scale": scale}, source="probe")
    made_plan = make_plan(made, num_samples=plan.num_samples, parameters=plan.parameters or None)
    require_same_lengths(job, plan, made, made_plan, with_auto_warmup=False)
    return made, made_plan


def whole_job(job: Job, plan: Plan) -> Job:
    """Return the job with its length in samples, which do not depend on the batch, and without an early stop."""
    values = job.model_dump()
    length = {"epochs": None, "steps": None, "tokens": None, "samples": plan.total_samples, "stop_after": None}
    return parse_job({**values, "train": {**values["train"], **length}}, source="probe")


def place_of(share: float, plan: Plan, *, branch_samples: int) -> int:
    """Return the samples seen at a share of the training: where a step begins, early enough for a branch."""
    batch = plan.global_batch_size
    wanted = min(round(share * plan.total_samples), plan.total_samples - branch_samples) - batch + 1
    return next_step_start(
        max(1, wanted), start=0, global_batch_size=batch, num_samples=plan.num_samples, last_batch=plan.last_batch
    )


def run_job(base: Job, *, stop: int, storage: str) -> Job:
    """Return the job of the run up to a place; its last checkpoint is there.

    Args:
        base: at the batch that is probed.
        stop: samples seen at the place.
        storage: of the probe's runs.
    """
    values = base.model_dump()
    return parse_job(
        {
            **values,
            **_names(base, storage),
            "train": {**values["train"], "stop_after": {"samples": stop}},
            "checkpoint": {"every": {"samples": MOST}, "keep": 1},
        },
        source="probe",
    )


def branch_job(base: Job, *, start: int, stop: int, multiple: int, seed: int, storage: str) -> Job:
    """Return the job of a branch: the run with a larger batch from ``start`` on.

    The schedule is that of the run, and the learning rate follows the batch by the rule, at once: that is what a
    ``batch_schedule`` does. The divergence guard is off, because a branch that diverges is a result.

    Args:
        base: at the batch that is probed.
        start: samples seen where the branch begins.
        stop: samples seen where it ends.
        multiple: of the batch.
        seed: of the order of the data.
        storage: of the probe's runs.
    """
    values = base.model_dump()
    point = {"at": {"samples": start}, "factor": multiple}
    growth = {"name": "points", "points": [point]} if multiple > 1 else None
    never = {"samples": MOST}
    return parse_job(
        {
            **values,
            **_names(base, storage),
            "scale": {**values["scale"], "batch_schedule": growth, "rewarmup": None},
            "train": {
                **values["train"],
                "stop_after": {"samples": stop},
                "seed": seed,
                "eval_every": never,
                "noise_scale_every": None,
            },
            "checkpoint": {"every": never, "keep": 1},
            "failures": {**values["failures"], "divergence": None},
        },
        source="probe",
    )


def largest_planned(base: Job, plan: Plan, *, start: int, stop: int, most: int, storage: str) -> tuple[int, str]:
    """Return the largest multiple up to ``most`` that has a plan, and why the next one has none; empty: it is ``most``.

    A rule that holds at a multiple holds at all smaller ones.
    """

    def problem(multiple: int) -> str:
        job = branch_job(base, start=start, stop=stop, multiple=multiple, seed=base.train.seed, storage=storage)
        try:
            make_plan(job, num_samples=plan.num_samples, parameters=plan.parameters or None)
        except PlanError as error:
            return error.problem
        return ""

    reason = problem(most)
    if not reason:
        return most, ""
    low, high = 1, most
    while high - low > 1:
        middle = (low + high) // 2
        found = problem(middle)
        low, high, reason = (low, middle, found) if found else (middle, high, reason)
    return low, reason


def probe_name(base: Job) -> str:
    """Return the name of the jobs of a probe."""
    return f"{base.name[: MOST_NAME - len(SUFFIX)]}{SUFFIX}"


def _names(base: Job, storage: str) -> dict[str, str]:
    return {"name": probe_name(base), "storage": storage}
