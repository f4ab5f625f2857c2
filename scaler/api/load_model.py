"""``scaler.load_model``: the model of a run, with the weights of one of its checkpoints."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaler.api.resume import trusted_folder
from scaler.cluster.resume import stored_recipe_folder
from scaler.errors import JobFileError
from scaler.job.load import masked_keys
from scaler.notebook import RunLike, run_folder
from scaler.report.run.read import read_jobs
from scaler.runs import RunFolder

if TYPE_CHECKING:
    from scaler.training.checkpoints.choose import Which
    from scaler.training.model.build import Model, RecipeLike


def load_model(
    run: RunLike,
    *,
    recipe: "RecipeLike | None" = None,
    which: "Which" = "last",
    ema: bool | None = None,
    storage: str | os.PathLike[str] = "runs",
    recipe_folder: str | os.PathLike[str] | None = None,
) -> "Model":
    """Return the model of a run with the weights and buffers of one of its checkpoints, on the CPU, in evaluation mode.

    The run may still be training. Nothing in its folder is changed.

    Args:
        run: its id below ``storage``, its folder or URI, ``last``, or what ``scaler.read_run`` returned.
        recipe: what makes the model. None: the run's own recipe, with its ``recipe_args``. A function, or
            ``module:function`` or ``path/file.py:function``, is called with the same arguments, and returns a
            ``scaler.Recipe`` or an ``nn.Module``. A ``Recipe`` or ``nn.Module`` is used itself: the weights are
            loaded into it.
        which: ``last``: the newest checkpoint. ``best``: the one with the best value of ``checkpoint.best``. A number:
            the checkpoint after this many samples.
        ema: True: the moving average of the weights. False: the weights of the last step. None: the average if the job
            has ``train.ema``; but with ``best`` those that the best value is of: the average only for a value whose
            name begins with ``ema_``.
        storage: the folder or URI that holds runs.
        recipe_folder: where a module is looked for; None: where the run's own recipe was when the run was last
            started, and for a ``recipe`` that is given, the current folder.

    Raises:
        RunError: there is no such run or checkpoint, or it cannot be read.
        JobFileError: the recipe cannot be found, must not be run because another person may have put it there, or has
            an argument that is masked in the run's folder.
        RecipeError: the recipe raised an exception, or builds another model.

    Example:
        >>> import scaler, tempfile, torch
        >>> folder = tempfile.TemporaryDirectory()
        >>> options = {"workers": 1, "address": "none", "storage": folder.name}
        >>> run = scaler.submit("jobs/digits/job.yaml", overrides=["train.epochs=1"], **options)
        >>> model = scaler.load_model(run)
        >>> model(torch.zeros(1, 64)).shape, model.training
        (torch.Size([1, 10]), False)
        >>> folder.cleanup()
    """
    from scaler.training.checkpoints.weights import read_weights, with_weights
    from scaler.training.model.build import given_model

    folder = run_folder(run, storage=storage)
    weights = read_weights(folder, which, ema=ema)
    model = given_model(recipe)
    return with_weights(_built(folder, recipe, recipe_folder) if model is None else model, weights)


def _built(folder: RunFolder, recipe: Any, recipe_folder: str | os.PathLike[str] | None) -> "Model":
    """Return a new model, made by the run's own recipe or by another function."""
    from scaler.training.model.build import build_model

    job = list(read_jobs(folder).values())[-1]
    if masked := masked_keys(job):
        raise JobFileError(
            f"{', '.join(masked)} {'is' if len(masked) == 1 else 'are'} masked in the run's folder, so the recipe "
            "cannot be called.",
            "Make the model yourself, and give it: load_model(run, recipe=model).",
        )
    if recipe_folder is not None:
        where = Path(recipe_folder).absolute()
    elif recipe is not None:
        where = Path.cwd()
    else:
        instead = "give what makes the model: load_model(run, recipe=...), with a function or the model itself"
        where = trusted_folder(
            folder,
            *stored_recipe_folder(folder, job),
            if_doubt=f"{instead[0].upper()}{instead[1:]}.",
            if_away=f"Say where it is now: load_model(run, recipe_folder=...); or {instead}.",
        )
    return build_model(job.recipe_function if recipe is None else recipe, job, folder=where, source="job.yaml")
