"""The built-in loop copies and shards a model; other dimensions of a mesh are refused when the worker starts."""

from pathlib import Path

import pytest
from small_runs import in_this_process, make_job, make_recipe, plan_of

from scaler.core.mesh import DIMENSIONS
from scaler.errors import JobFileError
from scaler.metrics.events import AttemptStarted, of_type
from scaler.training.recipe.check import require_planned


@pytest.mark.parametrize(
    ("mesh", "shown", "names"),
    [
        ({"tensor": 2}, "{tensor: 2}", "tensor"),
        ({"pipeline": 2, "context": 2}, "{context: 2, pipeline: 2}", "context and pipeline"),
        ({"tensor": 4, "expert": 2}, "{tensor: 4, expert: 2}", "tensor and expert"),
    ],
)
def test_a_dimension_that_only_a_loop_of_one_s_own_can_have_is_refused(
    mesh: dict[str, int], shown: str, names: str
) -> None:
    job = make_job(num_workers=4, per_worker_batch_size=8, mesh=mesh)
    with pytest.raises(JobFileError) as caught:
        require_planned(make_recipe(), job, plan_of(job, 4))
    assert str(caught.value) == (
        f"scale.mesh = {shown}, and scaler's own loop copies and shards the model only.\n"
        f"  Leave {names} out, or write a loop of your own: scaler.start(mesh=...)."
    )


def test_copies_are_what_it_makes() -> None:
    job = make_job(num_workers=4, per_worker_batch_size=8, mesh={"replicate": 4})
    require_planned(make_recipe(), job, plan_of(job, 4))


def test_the_start_of_an_attempt_has_the_mesh(tmp_path: Path) -> None:
    training, kept = in_this_process(tmp_path, make_recipe(), make_job(per_worker_batch_size=128))
    training.run()
    (start,) = of_type(kept.events, AttemptStarted)
    assert (start.data_parallel_size, start.mesh) == (1, dict.fromkeys(DIMENSIONS, 1))
