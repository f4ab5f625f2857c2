"""Verdicts on time: each is found above its threshold, and not found below it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_runs import healthy_loss, step_arrays_of, steps_of
from synthetic import evidence_of

from scaler.metrics.events import WorkerStarted
from scaler.report.run.model import Budget, Report, Scaling, Verdict
from scaler.report.run.verdicts import find_verdicts
from scaler.report.run.verdicts.step_times import FEWEST_STEPS, MOST_STEPS, SETTLING_STEPS

STEPS = 200


def found(sound: Report, *tables: Any, **changes: Any) -> tuple[Verdict, ...]:
    """Return the verdicts on made steps; each table is one attempt."""
    attempts = changes.pop("attempts", None) or [
        replace(sound.attempts[0], attempt=number, world_size=len(set(table["rank"].to_pylist())))
        for number, table in enumerate(tables)
    ]
    return find_verdicts(evidence_of(sound, arrays=step_arrays_of(*tables), attempts=attempts, **changes))


def codes(verdicts: tuple[Verdict, ...]) -> list[tuple[str, int | None]]:
    return [(verdict.code, verdict.rank) for verdict in verdicts]


def slower(rank: int, seconds: float, *, ranks: int = 4, steps: int = STEPS, usual: float = 0.1) -> np.ndarray:
    times = np.full((steps, ranks), usual)
    times[:, rank] = seconds
    return times


def test_a_rank_that_computes_slowly_in_every_step(sound: Report) -> None:
    (verdict,) = found(sound, steps_of(STEPS, 4, compute_s=slower(2, 0.15)))
    assert verdict == Verdict(
        code="straggler",
        rank=2,
        message="Rank 2 makes the others wait: it is slow in forward and backward.",
        evidence="it takes 1.45 times the median rank's time, and at least a fifth longer in 100% of the steps; "
        "that costs 31% of the training time",  # 50 ms of 162 ms
        next="See what else runs on its node or device, its clock and temperature, and whether its hardware is the "
        "same.",
    )


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"data_s": slower(1, 0.06, usual=0.005)}, "in loading data"),
        ({"update_s": slower(1, 0.06, usual=0.005)}, "in the optimizer step or the code around it"),
    ],
)
def test_a_straggler_has_the_part_of_a_step_in_which_it_is_slow(
    sound: Report, part: dict[str, Any], expected: str
) -> None:
    (verdict,) = found(sound, steps_of(STEPS, 4, **part))
    assert (verdict.code, verdict.message) == (
        "straggler",
        f"Rank 1 on node-1 makes the others wait: it is slow {expected}.",
    )


@pytest.mark.parametrize("ranks", [2, 3, 16])
@pytest.mark.parametrize(("ratio", "is_found"), [(1.19, False), (1.21, True)])
def test_a_straggler_takes_a_fifth_longer_than_the_median(
    sound: Report, ranks: int, ratio: float, is_found: bool
) -> None:
    own = 0.11
    table = steps_of(STEPS, ranks, compute_s=slower(1, 0.1 + own * (ratio - 1), ranks=ranks))
    assert codes(found(sound, table)) == ([("straggler", 1)] if is_found else [])


@pytest.mark.parametrize(("share", "is_found"), [(0.74, False), (0.76, True)])
def test_a_straggler_is_slow_in_most_steps(sound: Report, share: float, is_found: bool) -> None:
    times = slower(1, 0.1)
    times[SETTLING_STEPS : SETTLING_STEPS + round(share * (STEPS - SETTLING_STEPS)), 1] = 0.2
    # In fewer steps, no rank is a straggler, and the others wait for a last rank that changes.
    assert codes(found(sound, steps_of(STEPS, 4, compute_s=times))) == [
        ("straggler", 1) if is_found else ("sync_bound", None)
    ]


def test_too_few_steps_have_no_straggler(sound: Report) -> None:
    few = FEWEST_STEPS + SETTLING_STEPS
    assert found(sound, steps_of(few - 1, 4, compute_s=slower(2, 0.2, steps=few - 1))) == ()
    assert codes(found(sound, steps_of(few, 4, compute_s=slower(2, 0.2, steps=few)))) == [("straggler", 2)]


def test_less_than_a_second_to_save_has_no_verdict(sound: Report) -> None:
    fast = steps_of(STEPS, 4, compute_s=slower(2, 0.004, usual=0.002), data_s=0.0, update_s=0.0)
    assert found(sound, fast) == ()


def test_a_rank_with_more_samples_may_take_longer(sound: Report) -> None:
    shares = np.array([17, 16, 16, 24])
    assert found(sound, steps_of(STEPS, 4, compute_s=0.1 * shares / 16, data_s=0.0, update_s=0.0, samples=shares)) == ()
    assert codes(found(sound, steps_of(STEPS, 4, compute_s=0.1 * shares / 16, data_s=0.0, update_s=0.0))) == [
        ("straggler", 3)
    ]


def test_two_stragglers_do_not_hide_each_other(sound: Report) -> None:
    times = slower(0, 0.2)
    times[:, 3] = 0.15
    assert codes(found(sound, steps_of(STEPS, 4, compute_s=times))) == [("straggler", 0), ("straggler", 3)]


def test_of_many_stragglers_the_costliest_are_named(sound: Report) -> None:
    times = np.full((STEPS, 20), 0.1)
    times[:, :6] = np.linspace(0.2, 0.3, 6)
    verdicts = found(sound, steps_of(STEPS, 20, compute_s=times))
    assert codes(verdicts) == [("straggler", 5), ("straggler", 4), ("straggler", 3)]
    assert all("3 more ranks slow in this way" in verdict.evidence for verdict in verdicts)


def test_a_node_whose_workers_are_all_slow_has_one_verdict(sound: Report) -> None:
    times = np.full((STEPS, 4), 0.1)
    times[:, 2:] = 0.2
    row = sound.workers[0]
    workers = [replace(row, rank=rank, node=f"node-{rank // 2}") for rank in range(4)]
    (verdict,) = found(sound, steps_of(STEPS, 4, compute_s=times), workers=workers)
    assert (verdict.code, verdict.rank) == ("slow_node", None)
    assert verdict.message == "All 2 workers on node-1 make the others wait: they are slow in forward and backward."
    assert verdict.evidence == "they take 1.91 times the median rank's time; that costs 47% of the training time"
    # If one more worker of that node is fast, the slow ranks are named instead of the node.
    workers[1] = replace(workers[1], node="node-1")
    verdicts = found(sound, steps_of(STEPS, 4, compute_s=times), workers=workers)
    assert codes(verdicts) == [("straggler", 2), ("straggler", 3)]
    assert verdicts[0].message == "Rank 2 on node-1 makes the others wait: it is slow in forward and backward."


def test_a_straggler_of_an_earlier_attempt_is_named_with_its_attempt(sound: Report) -> None:
    first = steps_of(STEPS, 4, compute_s=slower(2, 0.2))
    then = steps_of(STEPS, 3, attempt=1, start=STEPS * 64, loss=0.4)
    stragglers = [verdict for verdict in found(sound, first, then) if verdict.code == "straggler"]
    assert [(verdict.rank, "of the steps of attempt 0" in verdict.evidence) for verdict in stragglers] == [(2, True)]
    assert "on node" not in stragglers[0].message  # rows of workers have the nodes of the newest attempt


def test_merged_records_name_the_same_straggler(sound: Report) -> None:
    (verdict,) = found(sound, steps_of(STEPS, 4, compute_s=slower(2, 0.15), merged=4))
    assert (verdict.code, verdict.rank) == ("straggler", 2)
    assert "costs 31% of the training time" in verdict.evidence


def one_off(step: int, rank: int | None, seconds: float, part: str) -> dict[str, Any]:
    usual = {"data_s": 0.005, "compute_s": 0.1, "update_s": 0.005, "network_s": 0.002}[part]
    times = np.full((STEPS, 4), usual)
    times[step, slice(None) if rank is None else rank] = seconds
    return {part: times}


@pytest.mark.parametrize(
    ("part", "rank", "what"),
    [
        ("data_s", 3, "most of it because rank 3 was slow in loading data"),
        ("compute_s", 3, "most of it because rank 3 was slow in forward and backward"),
        ("update_s", 3, "most of it because rank 3 was slow in the optimizer step or the code around it"),
        ("network_s", None, "most of it in the all-reduce, on all ranks"),
    ],
)
def test_a_step_that_took_very_long(sound: Report, part: str, rank: int | None, what: str) -> None:
    (verdict,) = found(sound, steps_of(STEPS, 4, **one_off(120, rank, 4.0, part)))
    assert (verdict.code, verdict.rank) == ("slow_steps", rank)
    assert verdict.message == "1 step took more than 5 times the median of 112 ms."
    assert verdict.evidence.startswith("3.9 s more in all, 15% of the training time") or part != "compute_s"
    assert verdict.evidence.endswith(f", {what}")
    assert "the longest, step 120 of attempt 0, took 4" in verdict.evidence


def test_a_merged_record_counts_as_all_its_steps(sound: Report) -> None:
    times = np.full((STEPS, 4), 0.1)
    times[120, 3] = 2.1  # of each of the 8 steps of that record: 2 s more
    (verdict,) = found(sound, steps_of(STEPS, 4, compute_s=times, merged=8))
    assert verdict.message == (
        "8 steps (means over records of up to 8 steps) took more than 5 times the median of 112 ms."
    )
    assert verdict.evidence == (
        "16 s more in all, 8% of the training time; the longest, 8 steps from step 120 of attempt 0, took each 2.11 s, "
        "most of it because rank 3 was slow in forward and backward"
    )


LONG = 3 * MOST_STEPS  # of 0.6 ms: a third of the steps could save less than ``WORTH_S``, all of them more


@pytest.mark.parametrize(
    ("ranks", "part", "code"),
    [
        (1, {"compute_s": 4e-4, "data_s": 2e-4}, "input_bound"),
        (4, {"compute_s": slower(2, 6e-4, steps=LONG, usual=4e-4)}, "straggler"),
        (4, {"compute_s": 3e-4, "network_s": 3e-4}, "sync_bound"),
    ],
)
def test_the_time_to_save_is_that_of_the_whole_run(sound: Report, ranks: int, part: dict[str, Any], code: str) -> None:
    usual: dict[str, Any] = {"data_s": 0.0, "update_s": 0.0, "network_s": 0.0}
    table = steps_of(LONG, ranks, **{**usual, **part})
    assert code in [verdict.code for verdict in found(sound, table)]
    assert found(sound, table[: MOST_STEPS * ranks]) == ()


@pytest.mark.parametrize(("seconds", "is_found"), [(1.1, False), (1.4, True)])
def test_slow_steps_cost_a_share_of_the_training(sound: Report, seconds: float, is_found: bool) -> None:
    # 5 % of 22.4 s beyond the median: 1.18 s.
    verdicts = found(sound, steps_of(STEPS, 4, **one_off(120, 3, seconds, "compute_s")))
    assert codes(verdicts) == ([("slow_steps", 3)] if is_found else [])


@pytest.mark.parametrize(("seconds", "is_found"), [(0.54, False), (0.56, True)])  # 5 times 112 ms is 560 ms
def test_slow_steps_take_many_times_the_median(sound: Report, seconds: float, is_found: bool) -> None:
    times = np.full((STEPS, 4), 0.1)
    times[[20, 60, 100, 140, 180], 3] = seconds
    assert codes(found(sound, steps_of(STEPS, 4, compute_s=times))) == ([("slow_steps", 3)] if is_found else [])


@pytest.mark.parametrize(("count", "code"), [(9, "slow_steps"), (10, "sync_bound")])  # of 197, a twentieth is 9.85
def test_slow_steps_are_few(sound: Report, count: int, code: str) -> None:
    times = np.full((STEPS, 4), 0.1)
    times[10 : 10 + 15 * count : 15, 3] = 2.0
    assert [verdict.code for verdict in found(sound, steps_of(STEPS, 4, compute_s=times))] == [code]


def test_the_first_steps_of_an_attempt_may_be_slow(sound: Report) -> None:
    assert found(sound, steps_of(STEPS, 4, **one_off(0, 3, 30.0, "compute_s"))) == ()


@pytest.mark.parametrize(("data_s", "is_found"), [(0.024, False), (0.03, True)])  # of 131 ms and 137 ms
@pytest.mark.parametrize("ranks", [1, 4])
def test_training_that_waits_for_data(sound: Report, ranks: int, data_s: float, is_found: bool) -> None:
    verdicts = found(sound, steps_of(STEPS, ranks, data_s=data_s))
    assert codes(verdicts) == ([("input_bound", None)] if is_found else [])
    if is_found:
        assert verdicts[0].message == "Training waits for data for 22% of the step time, mean over ranks."
        assert verdicts[0].next.startswith("Load samples in processes of their own: train.data_workers is 0")
        assert verdicts[0].evidence == (
            "30 ms of a step of 137 ms, medians over 197 steps; no rank waits less than 22%"
        )


def test_one_rank_that_waits_for_data_is_a_straggler_only(sound: Report) -> None:
    assert codes(found(sound, steps_of(STEPS, 4, data_s=slower(1, 0.2, usual=0.005)))) == [("straggler", 1)]


@pytest.mark.parametrize(("network_s", "is_found"), [(0.045, False), (0.05, True)])  # of 155 ms and 160 ms
def test_workers_that_wait_for_the_network(sound: Report, network_s: float, is_found: bool) -> None:
    verdicts = found(sound, steps_of(STEPS, 4, network_s=network_s))
    assert codes(verdicts) == ([("sync_bound", None)] if is_found else [])
    if is_found:
        assert verdicts[0].message == (
            "Workers wait for each other for 31% of the step time, mean over ranks, mostly for the all-reduce itself."
        )
        assert verdicts[0].evidence == (
            "31% in the all-reduce after the last rank has reached it, 0% before; median step 160 ms"
        )


def started(rank: int, link: tuple[float, float] | None, attempt: int = 0) -> WorkerStarted:
    """Return the start of a worker that measured a round trip in seconds and MiB/s, or did not measure."""
    return WorkerStarted(
        time=0.0,
        attempt=attempt,
        rank=rank,
        node=f"node-{rank}",
        pid=1,
        world_size=4,
        start_samples=0,
        device=None,
        memory_limit_gib=None,
        round_trip_s=link[0] if link else None,
        link_mib_per_s=link[1] if link else None,
    )


@pytest.mark.parametrize(
    ("links", "named", "why"),
    [
        ([None, None], "", "two workers of one node"),
        (
            [None, (0.1, 0.24)],
            "; the slowest link is from node-1 to node-0, the node of rank 0: 0.24 MiB/s and 100 ms a round trip",
            "two nodes",
        ),
        (
            [None, (0.0002, 500.0), (0.0002, 0.25), (0.0003, 400.0)],
            "; the slowest link is from node-2 to node-0, the node of rank 0: 0.25 MiB/s and 0.2 ms a round trip; "
            "median of all links: 400 MiB/s and 0.2 ms a round trip",
            "one of three is slow",
        ),
    ],
)
def test_the_slowest_link_is_named_by_its_node(
    sound: Report, links: list[tuple[float, float] | None], named: str, why: str
) -> None:
    events = [started(rank, link) for rank, link in enumerate(links)]
    other_attempt = started(1, (9.0, 0.001), attempt=7)
    (verdict,) = found(sound, steps_of(STEPS, 4, network_s=0.05), events=[other_attempt, *events])
    assert verdict.evidence.endswith(f"median step 160 ms{named}"), why


def test_workers_that_wait_for_a_last_rank_that_changes(sound: Report) -> None:
    times = np.full((STEPS, 4), 0.1)
    times[np.arange(STEPS), np.arange(STEPS) % 4] = 0.2
    (verdict,) = found(sound, steps_of(STEPS, 4, compute_s=times))
    assert verdict.code == "sync_bound"
    assert verdict.message.endswith("mostly for the last rank, which changes.")
    assert verdict.evidence.startswith("1% in the all-reduce after the last rank has reached it, 35% before")


def test_the_wait_for_a_straggler_is_not_reported_twice(sound: Report) -> None:
    assert codes(found(sound, steps_of(STEPS, 4, compute_s=slower(2, 0.4)))) == [("straggler", 2)]


def scaling(efficiency: float | None, *, world_size: int = 4) -> Scaling:
    alone = 1000.0 if efficiency is not None else None
    return Scaling(
        world_size=world_size,
        worker_samples_per_s=1000.0 * (efficiency or 1.0),
        one_worker_samples_per_s=alone,
        efficiency=efficiency,
        source="reference.samples_per_s" if alone else None,
    )


def test_workers_that_are_much_slower_together(sound: Report) -> None:
    totals = replace(sound.totals, train_s=100.0)
    (verdict,) = find_verdicts(evidence_of(sound, totals=totals, scaling=scaling(0.69)))
    assert verdict.message == "Each of the 4 workers is 69% as fast as one worker alone."
    assert verdict.evidence == "690 samples/s a worker against 1,000 samples/s alone, from reference.samples_per_s"
    for other in (scaling(0.71), scaling(None), scaling(0.5, world_size=1), None):
        assert find_verdicts(evidence_of(sound, totals=totals, scaling=other)) == ()
    short = replace(sound.totals, train_s=3.0)
    assert find_verdicts(evidence_of(sound, totals=short, scaling=scaling(0.69))) == ()  # 0.93 s lost


def budget(startup_s: float) -> Budget:
    rest = dict.fromkeys(
        (
            "compute_s",
            "data_wait_s",
            "sync_wait_s",
            "update_s",
            "evaluation_s",
            "checkpoint_s",
            "redone_s",
            "restart_s",
            "other_s",
        ),
        0.0,
    )
    return Budget(startup_s=startup_s, **rest)


@pytest.mark.parametrize(
    ("startup_s", "wall_s", "is_found"),
    [(60.0, 300.0, True), (60.0, 301.0, False), (59.9, 100.0, False), (600.0, 700.0, True), (600.0, None, False)],
)
def test_a_start_up_that_is_long_and_a_large_share(
    sound: Report, startup_s: float, wall_s: float | None, is_found: bool
) -> None:
    totals = replace(sound.totals, wall_s=wall_s)
    verdicts = find_verdicts(evidence_of(sound, totals=totals, budget=budget(startup_s)))
    assert codes(verdicts) == ([("slow_startup", None)] if is_found else [])
    if wall_s == 300.0:
        assert verdicts[0].message == "The first step came after 1 min 0 s, 20% of the wall clock."


def test_a_run_that_has_not_ended_has_no_budget_to_judge(sound: Report) -> None:
    assert find_verdicts(evidence_of(sound, budget=None)) == ()


def test_one_worker_waits_for_no_other(sound: Report) -> None:
    random = np.random.default_rng(0)
    times = 0.1 * random.lognormal(0.0, 0.3, size=(STEPS, 1))
    assert found(sound, steps_of(STEPS, 1, compute_s=times, loss=healthy_loss(STEPS)[:, None])) == ()
