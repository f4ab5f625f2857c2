"""Which keys of a job a loop of one's own follows."""

from scaler.errors import JobFileError
from scaler.job.model import Job

# The other keys tell the built-in loop what to do, and would be ignored. What starts, restarts and places the processes
# (failures, resources, runtime_env) is for ``scaler submit``, with either loop.
_KEYS = (
    *("name", "recipe", "recipe_args", "reference", "scale", "schedule", "train", "checkpoint", "tracking", "storage"),
    *("failures", "resources", "runtime_env"),
)
_TRAIN_KEYS = (
    *("epochs", "steps", "samples", "tokens", "unit", "tokens_per_sample", "num_samples", "last_batch", "eval_every"),
    *("seed", "stop_after", "strategy"),
)


def require_own_loop_keys(job: Job, *, source: str) -> None:
    """Refuse keys that a loop of one's own would ignore.

    Args:
        job: of a script that calls ``scaler.start``.
        source: names the job in errors.

    Raises:
        JobFileError: names the first one.
    """
    for name, section, allowed in (("", job, _KEYS), ("train.", job.train, _TRAIN_KEYS)):
        for key in sorted(section.model_fields_set - set(allowed)):
            usual = type(section).model_fields[key].get_default(call_default_factory=True)
            if getattr(section, key) != usual:
                raise JobFileError(
                    f"{source}: {name}{key} is for scaler's own loop, and would be ignored by a loop of one's own.",
                    "Leave it out, and do it in the script.",
                )
    if job.reference.splits:
        raise JobFileError(
            f"{source}: reference.optimizer.fallback and match are for recipes; a loop of one's own gives each "
            "optimizer its parameters.",
            "Name the second optimizer only: optimizers: {rest: {lr: 0.001, optimizer: {name: adamw}}}.",
        )
    names = [job.reference.optimizer.name]
    for name, own in job.reference.optimizers.items():
        other = own.optimizer.name if own.optimizer is not None else job.reference.optimizer.name
        if other in names:
            raise JobFileError(
                f"{source}: reference.optimizers.{name} is a second {other}, and the optimizers of a loop of one's own "
                "are distinguished by their class.",
                "Leave it out: give each optimizer of the script the learning rate that it was tuned with.",
            )
        names.append(other)
    if job.scale.batch_schedule is not None or job.scale.rule == "adascale":
        key = "batch_schedule" if job.scale.batch_schedule is not None else "rule = adascale"
        raise JobFileError(
            f"{source}: scale.{key} changes the batch or measures the noise, which such a loop does not follow.",
            "Return a scaler.Recipe: then scaler's own loop trains it.",
        )
    if job.failures.divergence is not None and job.failures.divergence.then == "go_back":
        raise JobFileError(
            f"{source}: failures.divergence.then = go_back needs scaler's checkpoints, and a loop of one's own has its "
            "own.",
            "Use then: stop; the script may load its checkpoint when run.evaluated or the loader raises.",
        )
