"""The display of a running job, as lines."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console
from synthetic import SyntheticRun

from scaler.cli.live import Live
from scaler.cluster.progress import Progress

AT_WORK = Progress(attempt=0, world_size=2, samples_seen=96, progress=60.0, lr=0.04, loss_mean=2.0, samples_per_s=128.0)


@pytest.mark.parametrize(
    ("progress", "share"), [(0.0, "  0%"), (60.0, " 30%"), (100.0, " 50%"), (200.0, "100%"), (203.7, "100%")]
)
def test_the_share_is_of_the_plans_whole_progress(synthetic_run: SyntheticRun, progress: float, share: str) -> None:
    console = Console(file=StringIO(), width=100, color_system=None)
    with Live(synthetic_run.plan, console=console, quiet=False) as live, console.capture() as captured:
        live.show(replace(AT_WORK, progress=progress))
    assert captured.get() == f"{share}  loss 2  lr 0.04  128 samples/s\n"


def test_the_end_is_always_shown(synthetic_run: SyntheticRun) -> None:
    console = Console(file=StringIO(), width=100, color_system=None)
    with Live(synthetic_run.plan, console=console, quiet=False) as live, console.capture() as captured:
        for done in (60.0, 61.0, 62.0, 200.0):  # too soon after the first, but for the last
            live.show(replace(AT_WORK, progress=done))
    assert [line[:4] for line in captured.get().splitlines()] == [" 30%", "100%"]


def test_the_bar_is_of_progress_and_never_beyond_its_end(synthetic_run: SyntheticRun) -> None:
    console = Console(file=StringIO(), width=120, force_terminal=True, color_system=None, legacy_windows=False)
    with Live(synthetic_run.plan, console=console, quiet=False) as live:
        assert live._bar is not None
        for done, shown in ((60.0, 60.0), (203.7, 200)):
            live.show(replace(AT_WORK, progress=done))
            assert (live._bar.tasks[0].completed, live._bar.tasks[0].total) == (shown, 200)


def test_a_run_that_goes_on_begins_its_bar_where_it_is(synthetic_run: SyntheticRun) -> None:
    console = Console(file=StringIO(), width=120, force_terminal=True, color_system=None, legacy_windows=False)
    with Live(synthetic_run.plan, console=console, quiet=False) as live:
        assert live._bar is not None
        live.begin_at(120)
        assert live._bar.tasks[0].completed == 120
        assert live._bar.tasks[0].speed is None  # what was done before says nothing of how fast this is
        live.show(replace(AT_WORK, progress=136.0))
        assert live._bar.tasks[0].completed == 136.0
