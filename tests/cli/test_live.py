"""The display of a run's progress."""

from dataclasses import replace
from io import StringIO
from threading import Event

import pyte
import pytest
from rich.console import Console
from synthetic import SyntheticRun

from scaler.cli import live as live_module
from scaler.cli import slow as slow_module
from scaler.cli.live import Live
from scaler.cli.live_view import View
from scaler.cluster.progress import MOST_WORKERS, Progress, WorkerProgress, find_straggler

AT_WORK = Progress(attempt=0, world_size=2, samples_seen=96, progress=60.0, lr=0.04, loss_mean=2.0, samples_per_s=128.0)


@pytest.mark.parametrize(
    ("progress", "share"), [(0.0, "  0%"), (60.0, " 30%"), (100.0, " 50%"), (200.0, "100%"), (203.7, "100%")]
)
def test_the_share_done_is_of_the_whole_plan(synthetic_run: SyntheticRun, progress: float, share: str) -> None:
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


STARTS = [Progress(), Progress(workers_started=1), Progress(workers_started=2), Progress(attempt=0, workers_started=2)]


@pytest.mark.parametrize("slow_s", [0.0, 1e9])
def test_a_slow_start_says_what_it_does(
    synthetic_run: SyntheticRun, monkeypatch: pytest.MonkeyPatch, slow_s: float
) -> None:
    monkeypatch.setattr(live_module, "SLOW_START_S", slow_s)
    monkeypatch.setattr(live_module, "monotonic", lambda: 100.0)
    console = Console(file=StringIO(), width=100, color_system=None)
    live = Live(synthetic_run.plan, console=console, quiet=False, start="starting")
    with live, console.capture() as captured:
        for progress in [*STARTS, STARTS[-1], AT_WORK, Progress(attempt=1)]:
            live.show(progress)
    lines = [
        "0 s: starting 2 workers, which import torch",
        "0 s: 1 of 2 workers have started: building the recipe and checking it",
        "0 s: 2 of 2 workers have started: building the recipe and checking it",
        "0 s: the checks are done: taking the first steps",
    ]
    shown = captured.get().splitlines()
    assert shown[:-1] == (lines if slow_s == 0 else [])
    assert shown[-1].startswith(" 30%")


def test_a_terminal_shows_what_a_start_does_at_once(synthetic_run: SyntheticRun) -> None:
    with Live(synthetic_run.plan, console=terminal(), quiet=False, start="starting") as live:
        found = []
        for progress in STARTS[:2]:
            live.show(progress)
            found.append(live.view.start)
    assert found == [
        "starting 2 workers, which import torch",
        "1 of 2 workers have started: building the recipe and checking it",
    ]


def test_a_slow_step_is_shown_in_a_terminal_and_printed_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_module, "SLOW_S", 0.0)
    file = StringIO()
    printed = Event()
    console = Console(file=file, width=100, color_system=None)
    monkeypatch.setattr(console, "print", lambda text, **_: (file.write(f"{text}\n"), printed.set()))
    with slow_module.Slow("Building", console=console):
        assert printed.wait(30)
    assert file.getvalue() == "Building\n"
    screen = terminal()
    with slow_module.Slow("Building", console=screen) as slow:
        slow.end()
    assert "Building" in screen.file.getvalue()


def terminal(width: int = 80, height: int = 24) -> Console:
    return Console(
        file=StringIO(), width=width, height=height, force_terminal=True, color_system=None, legacy_windows=False
    )


def test_the_bar_shows_progress_and_stops_at_its_end(synthetic_run: SyntheticRun) -> None:
    with Live(synthetic_run.plan, console=terminal(), quiet=False) as live:
        for done, shown in ((60.0, 60.0), (203.7, 200)):
            live.show(replace(AT_WORK, progress=done))
            assert (live.view.done, live.view.total) == (shown, 200)


def test_the_bar_of_a_resumed_run_starts_at_its_checkpoint(synthetic_run: SyntheticRun) -> None:
    with Live(synthetic_run.plan, console=terminal(), quiet=False) as live:
        live.begin_at(120)
        assert live.view.done == 120
        live.show(replace(AT_WORK, progress=136.0))
        assert live.view.done == 136.0
        assert live.view.left_s is None  # what was done before says nothing of how fast this is


def test_a_new_attempt_is_a_restart_and_the_bar_stays_while_it_starts(synthetic_run: SyntheticRun) -> None:
    with Live(synthetic_run.plan, console=terminal(), quiet=False) as live:
        live.show(replace(AT_WORK, progress=136.0))
        live.show(Progress(attempt=1, world_size=2))
        assert (live.view.done, live.view.restarts, live.view.left_s) == (136.0, 1, None)


def test_the_time_left_is_estimated_from_the_last_minute(
    synthetic_run: SyntheticRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(live_module, "monotonic", lambda: now)
    with Live(synthetic_run.plan, console=terminal(), quiet=False) as live:
        for at, done in ((0.0, 10.0), (100.0, 20.0), (130.0, 50.0), (160.0, 80.0)):
            now = at
            live.show(replace(AT_WORK, progress=done))
    assert live.view.left_s == 120.0  # one a second since 100 s; the slow start counts no more


def workers(count: int, *, slow: int | None = None) -> Progress:
    looks = [
        WorkerProgress(
            rank=rank, samples_per_s=64.0, loss=2.0, step_time_s=0.3, data_wait_s=0.002,
            compute_s=0.28 if rank == slow else 0.1, sync_wait_s=0.01, peak_memory_gib=0.4,
        )
        for rank in range(count)
    ]  # fmt: skip
    looks.sort(key=lambda look: (-look.own_s, look.rank))
    shown = tuple(looks[:MOST_WORKERS])
    return replace(AT_WORK, world_size=count, workers=shown, straggler=find_straggler(looks))


def drawn(progress: Progress, width: int, height: int) -> list[str]:
    console = terminal(width, height)
    with console.capture() as captured:
        console.print(View(total=200, done=60.0, left_s=75.0, restarts=2, progress=progress))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_a_terminal_shows_every_worker_and_marks_the_straggler() -> None:
    assert drawn(workers(3, slow=1), 80, 24) == [
        f"training on 3 workers {'━' * 8:27} 30% 1 min 15 s left 2 restarts",
        "loss 2  lr 0.04  128 samples/s",
        "rank 1 makes the others wait: compute, 282 ms a step against 102 ms.",
        "  rank samples/s   step data compute  sync loss   memory",
        "     0        64 300 ms 2 ms  100 ms 10 ms    2 0.40 GiB",
        ">    1        64 300 ms 2 ms  280 ms 10 ms    2 0.40 GiB",
        "     2        64 300 ms 2 ms  100 ms 10 ms    2 0.40 GiB",
    ]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 20), (120, 40), (40, 12), (30, 6), (20, 4)])
@pytest.mark.parametrize("count", [1, 2, 40, 1000])
def test_the_panel_never_exceeds_the_terminal(width: int, height: int, count: int) -> None:
    lines = drawn(workers(count, slow=count - 1), width, height)
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    assert "30%" in lines[0]


def test_of_a_thousand_workers_the_slowest_are_shown_and_the_others_counted() -> None:
    lines = drawn(workers(1000, slow=777), 80, 24)
    assert lines[-1] == "and 982 more, faster ones"
    assert len([line for line in lines if line.startswith(">  777")]) == 1


def test_a_pipe_shows_the_worker_that_the_others_wait_for(synthetic_run: SyntheticRun) -> None:
    console = Console(file=StringIO(), width=100, color_system=None)
    with Live(synthetic_run.plan, console=console, quiet=False) as live, console.capture() as captured:
        live.show(workers(2, slow=1))
    assert captured.get() == (
        " 30%  loss 2  lr 0.04  128 samples/s  (rank 1 makes the others wait: compute, 282 ms a step against 102 ms)\n"
    )


@pytest.mark.parametrize("ends", [None, KeyboardInterrupt])
def test_only_the_printed_lines_stay_when_the_run_ends(
    synthetic_run: SyntheticRun, ends: type[BaseException] | None
) -> None:
    """As a terminal shows it: pyte reads what was written."""
    screen = pyte.Screen(80, 24)
    console = terminal()
    try:
        with Live(synthetic_run.plan, console=console, quiet=False) as live:
            live.show(workers(4, slow=2))
            live.say("Run digits-1")
            live.show(replace(workers(4, slow=2), progress=70.0))
            if ends is not None:
                raise ends
    except KeyboardInterrupt:
        pass
    console.print("the report")
    assert isinstance(console.file, StringIO)
    pyte.Stream(screen).feed(console.file.getvalue().replace("\n", "\r\n"))
    assert [line.rstrip() for line in screen.display if line.strip()] == ["Run digits-1", "the report"]


def test_quiet_shows_nothing(synthetic_run: SyntheticRun) -> None:
    console = terminal()
    with Live(synthetic_run.plan, console=console, quiet=True) as live:
        live.say("Run digits-1")
        live.show(workers(2, slow=1))
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue() == ""
