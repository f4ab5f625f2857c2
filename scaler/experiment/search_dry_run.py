"""What a search would try, and how long it takes at most and at least."""

from scaler.cluster.search.spec import Between
from scaler.experiment.matrix import Matrix
from scaler.experiment.search import search_spec
from scaler.job.changes import shown
from scaler.report.experiment.progress import SearchDryRun


def search_dry_run(matrix: Matrix) -> SearchDryRun:
    """Return what a search would try.

    Raises:
        JobFileError: the experiment cannot be searched.
    """
    spec = search_spec(matrix)
    looks = list(spec.places(spec.total_samples))
    most = spec.trials * spec.total_samples
    is_stopping = spec.scheduler == "asha" and bool(looks)
    return SearchDryRun(
        name=matrix.experiment.name,
        space={
            key: f"{values.low:g} to {values.high:g}, {'log' if values.is_log else 'linear'}"
            if isinstance(values, Between)
            else ", ".join(map(shown, values))
            for key, values in spec.space.items()
        },
        searcher=spec.searcher,
        scheduler=spec.scheduler,
        trials=spec.trials,
        total_samples=spec.total_samples,
        places=looks,
        most_samples=most,
        fewest_samples=spec.total_samples + (spec.trials - 1) * looks[0] if is_stopping else most,
    )
