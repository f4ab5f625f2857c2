"""The built-in loop copies and shards a model; other dimensions of a mesh are refused when the worker starts."""

import pytest
from small_runs import make_job, make_recipe, plan_of

from scaler.errors import JobFileError
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
