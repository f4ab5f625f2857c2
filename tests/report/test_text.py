"""What stands in the terminal: compared whole, never wider than 80 columns, nothing raw."""

from collections.abc import Callable
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console, RenderableType
from synthetic import SYNTHETIC_JOB, SyntheticRun

from scaler.job import Job
from scaler.plan import make_plan
from scaler.report.plan.text import plan_text, plans_table
from scaler.report.run.format import group_text, noise_text, phase_text
from scaler.report.run.model import Cost, Flops, Noise, Scaling, Verdict
from scaler.report.run.text import report_text
from scaler.report.text.format import number, plural, printable, seconds

Golden = Callable[[str, str], None]
HOSTILE = "a\x1b[31mb\x07[bold]\u202e"


def rendered(what: RenderableType, *, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width, highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(what)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().rstrip().split("\n"))


@pytest.fixture
def lost_and_resumed(synthetic_run: SyntheticRun) -> SyntheticRun:
    """A run that lost an attempt; its rank 1 set the learning rate itself and then diverged."""
    run = synthetic_run.attempt(0, stop=96).died(1).later(3.2).attempt(1, start=64)
    run = run.altered(lambda record: (record.rank, record.step) == (1, 12), loss=float("nan"), lr=0.05)
    return run.evaluated(200, loss=0.6931, accuracy=0.96111)


def test_the_report_of_a_sound_run(synthetic_run: SyntheticRun, golden: Golden) -> None:
    report = synthetic_run.attempt(0).evaluated(200, loss=0.6931, accuracy=0.96111).report()
    golden("report.txt", rendered(report_text(report)))


def test_the_report_of_a_run_with_faults(lost_and_resumed: SyntheticRun, golden: Golden) -> None:
    golden("report-faults.txt", rendered(report_text(lost_and_resumed.report())))


def test_the_report_of_a_run_to_which_everything_happened(eventful: SyntheticRun, golden: Golden) -> None:
    golden("report-eventful.txt", rendered(report_text(eventful.report())))


def test_the_report_of_a_run_with_many_attempts(many_attempts: SyntheticRun, golden: Golden) -> None:
    golden("report-many-attempts.txt", rendered(report_text(many_attempts.report())))


def test_the_report_of_a_run_with_adascale(
    synthetic_run: SyntheticRun, digits: Callable[..., Job], golden: Golden
) -> None:
    growing = digits(*SYNTHETIC_JOB, "scale.rule=adascale")
    run = replace(synthetic_run, job=growing, plan=make_plan(growing))
    report = replace(run.attempt(0, stop=96, progress=lambda rank, seen: seen * 10 / 16), state="stopped").report()
    golden("report-adascale.txt", rendered(report_text(report)))


def test_the_report_of_a_run_without_anything(synthetic_run: SyntheticRun, golden: Golden) -> None:
    golden("report-empty.txt", rendered(report_text(replace(synthetic_run, state="starting").report())))


def test_a_learning_rate_that_differs_is_not_as_planned(
    synthetic_run: SyntheticRun, lost_and_resumed: SyntheticRun
) -> None:
    assert "as planned in 14 steps" in rendered(report_text(synthetic_run.attempt(0).report()))
    assert "as planned in" not in rendered(report_text(lost_and_resumed.report())).replace("not as planned in", "")


def test_a_report_shows_the_error_that_it_speaks_of(synthetic_run: SyntheticRun) -> None:
    failure = "rank 1 failed: ValueError: no such thing\n  Traceback (most recent call last):\n    mine.py, line 3"
    text = rendered(report_text(replace(synthetic_run.attempt(0, stop=48), state="failed", failure=failure).report()))
    assert "Read the error below" in text
    assert text.index("Read the error below") < text.index("rank 1 failed: ValueError: no such thing")
    assert "mine.py, line 3" in text


def test_the_plan_of_the_digits_job(digits: Callable[..., Job], golden: Golden) -> None:
    golden("plan-80.txt", rendered(plan_text(make_plan(digits()))))


@pytest.mark.parametrize("name", ["report", "faults", "eventful", "many attempts", "plan", "plans"])
def test_nothing_is_wider_than_80_columns(
    lost_and_resumed: SyntheticRun,
    eventful: SyntheticRun,
    many_attempts: SyntheticRun,
    digits: Callable[..., Job],
    name: str,
) -> None:
    large = digits("scale.num_workers=4096", "train.num_samples=1281167", "train.epochs=90")
    plans = [make_plan(large, workers) for workers in (1, 64, 4096)]
    (*_, last) = eventful.report().attempts
    huge = replace(last, global_batch_size=16384, end_global_batch_size=131072, world_size=1024, peak_lr=1.234e-5)
    far = {"attempt": 1000, "start_samples": 115_305_030, "end_samples": 1_153_050_300, "ended_by": "out_of_memory"}
    costly = {"cause": "x" * 160, "redone_samples": 10**9, "redone_s": 1e6, "restart_s": 1e6}
    what = {
        "report": lambda: report_text(lost_and_resumed.report()),
        "faults": lambda: report_text(replace(lost_and_resumed, state="failed", failure="x" * 300).report()),
        "eventful": lambda: report_text(eventful.report(attempts=(huge,))),
        "many attempts": lambda: report_text(many_attempts.report(attempts=(replace(huge, **far, **costly),))),
        "plan": lambda: plan_text(plans[-1]),
        "plans": lambda: plans_table(plans),
    }[name]()
    lines = rendered(what).splitlines()
    assert max(len(line) for line in lines) <= 80
    assert not [line for line in lines if line.rstrip().endswith("…")], "a number was cut off"


@pytest.mark.parametrize("width", [30, 40, 60, 70])
def test_a_narrow_terminal_gets_fewer_columns_and_no_number_is_cut_off(eventful: SyntheticRun, width: int) -> None:
    text = rendered(report_text(eventful.report()), width=width)
    table = text[text.index("\nrank  ") :].split("\n\n")[0]
    assert "…" not in table
    assert max(map(len, table.splitlines())) <= width
    assert ("samples  " in table.splitlines()[1]) is (width >= 70)
    bar = text[text.index("Where the ") :].splitlines()[1]
    assert len(bar.rstrip()) == width


def test_of_very_many_workers_the_slowest_are_shown_and_the_rest_counted(synthetic_run: SyntheticRun) -> None:
    report = synthetic_run.attempt(0).report()
    workers = tuple(replace(report.workers[0], rank=rank, compute_s=1.0 + rank / 1e6) for rank in range(1000))
    verdict = Verdict(code="straggler", rank=999, message="Rank 999 is slow.", evidence="e", next="n")
    text = rendered(report_text(replace(report, workers=workers, verdicts=(verdict,))))
    rows = text[text.index("rank  samples") :].splitlines()
    assert [row.split()[0] for row in rows[1:17]] == ["999<", *(str(rank) for rank in range(998, 983, -1))]
    assert rows[17].startswith("and 984 more workers;")
    assert len(text.splitlines()) <= 48


def test_the_bar_of_the_time_has_a_column_for_each_share_and_words_for_all(synthetic_run: SyntheticRun) -> None:
    report = synthetic_run.attempt(0).report()
    assert report.budget is not None
    nothing = dict.fromkeys(report.budget.__dataclass_fields__, 0.0)
    budget = replace(report.budget, **{**nothing, "startup_s": 7.8, "compute_s": 70.0, "data_wait_s": 0.2})
    text = rendered(report_text(replace(report, budget=budget, totals=replace(report.totals, wall_s=78.0))))
    bar, words = text[text.index("Where the 1 min 18 s went") :].splitlines()[1:3]
    assert bar == "^" * 8 + "c" * 70
    assert words == "^ start-up 10%  c compute 90%  d data wait <1%"
    assert "Where the" not in rendered(report_text(replace(report, budget=None)))


def test_efficiency_and_cost_are_shown_if_they_are_known(synthetic_run: SyntheticRun) -> None:
    report = synthetic_run.attempt(0).report()
    scaling = Scaling(
        world_size=2, worker_samples_per_s=90.0, one_worker_samples_per_s=100.0, efficiency=0.9, source=HOSTILE
    )
    known = replace(
        report,
        scaling=scaling,
        cost=Cost(price_per_worker_hour=2.5, worker_hours=8e9, total=2e10, per_million_samples=0.001),
        flops=Flops(flops_per_sample=1e9, worker_tflops=40.0, peak_tflops=100.0, mfu=0.4),
    )
    text = rendered(report_text(known))
    assert max(len(line) for line in text.splitlines()) <= 80
    line = " ".join(text.split())
    assert "efficiency 90%: 90 samples/s a worker, against 100 of one alone (a\\x1b[31mb" in line
    assert "computing 40%: 40 of 100 TFLOPS a worker" in line
    assert "cost 20,000,000,000.00 for 8,000,000,000 worker-hours at 2.50 each; 0.001 a million samples" in line
    unknown = replace(scaling, one_worker_samples_per_s=None, efficiency=None, source=None)
    assert "efficiency" not in rendered(report_text(replace(known, scaling=unknown)))


def test_names_from_outside_are_shown_and_not_obeyed(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0).evaluated(200, **{HOSTILE: 0.5})
    text = rendered(report_text(run.report()))
    assert "eval a\\x1b[31mb\\x07[bold]\\u202e" in text
    assert not set(text) & set("\x1b\x07\u202e")


def test_a_cause_from_outside_is_shown_and_not_obeyed(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96).hung(1, where=HOSTILE).event("checkpoint_failed", 96, reason=HOSTILE)
    text = rendered(report_text(run.attempt(1, start=64).report()))
    shown = "a\\x1b[31mb\\x07[bold]\\u202e"
    assert f"Rank 1 hung for 600 s: computing, {shown}." in text
    assert text.count(shown) == 3, "in the list of attempts and in two verdicts"
    assert not set(text) & set("\x1b\x07\u202e")


TREND = {"last_step": 1980, "first_step": 1000, "fitted_steps": 50}
FROM = "at step 1,980, from the trend of 50 steps measured since step 1,000, an estimate"


@pytest.mark.parametrize(
    ("noise_scale", "lower", "upper", "text"),
    [
        (1240.3, 800.2, 2099.6, f"1,240 samples (90% 800-2,100) {FROM}"),
        (1240.3, 800.2, None, f"1,240 samples (90% 800 or more) {FROM}"),
        (1240.3, 0.0, None, f"1,240 samples (90% 0 or more) {FROM}"),
        (12.345, 8.0, 20.02, f"12.3 samples (90% 8-20) {FROM}"),  # small ones have digits
        (None, 800.2, None, f"not known (90% 800 or more) {FROM}"),
    ],
)
def test_a_noise_scale_is_called_an_estimate_and_says_from_which_steps(
    noise_scale: float | None, lower: float | None, upper: float | None, text: str
) -> None:
    noise = Noise(noise_scale=noise_scale, lower=lower, upper=upper, measured_steps=100, meaning="", **TREND)
    assert noise_text(noise) == text


@pytest.mark.parametrize(
    ("measured", "text"),
    [
        (1, "not known: measured in 1 step, 10 are needed"),
        (9, "not known: measured in 9 steps, 10 are needed"),
        (1000, "not known: no steady trend within the last 10 of 1,000 measured steps"),
    ],
)
def test_a_noise_scale_that_is_not_known_says_why(measured: int, text: str) -> None:
    noise = Noise(noise_scale=None, lower=None, upper=None, measured_steps=measured, meaning="")
    assert noise_text(noise) == text


def test_a_noise_scale_of_the_preconditioned_gradient_says_so() -> None:
    noise = Noise(
        noise_scale=186.2, lower=142.0, upper=252.0, measured_steps=99, meaning="", is_preconditioned=True, **TREND
    )
    assert noise_text(noise) == f"186 samples (90% 142-252) of the preconditioned gradient {FROM}"


def test_only_the_first_groups_and_phases_are_named() -> None:
    def group(name: str, **values: object) -> dict[str, object]:
        return {"name": name, "peak_lr": 0.1, "frozen": False, "unfreeze_at": None, **values}

    thawed = group("b\x1b[31m", frozen=True, unfreeze_at=10)
    groups = [group("a.*"), thawed, group("c", frozen=True), group("d")]
    assert group_text(groups[:1]) == "a.* 0.1"
    assert group_text(groups) == "a.* 0.1, b\\x1b[31m 0.1, c frozen, and 1 more group"
    phases = [{"start_samples": 1000 * i, "global_batch_size": 64 * 2**i} for i in range(6)]
    assert phase_text(phases) == (
        "64 samples, 128 from sample 1,000, 256 from sample 2,000, 512 from sample 3,000, and 2 more changes"
    )


@pytest.mark.parametrize(
    ("value", "digits_shown", "text"),
    [
        (None, 4, "–"),  # not known
        (0, 4, "0"),
        (0.0, 4, "0"),
        (16.0, 4, "16"),  # no digits that say nothing
        (0.96111, 4, "0.9611"),
        (0.0000123, 4, "1.23e-05"),
        (-0.5, 4, "-0.5"),
        (21555, 4, "21,555"),  # counts are whole
        (123, 2, "123"),
        (34911.7, 4, "34,912"),
        (9999.4, 4, "9,999"),
        (2034.0, 4, "2,034"),
        (999.94, 4, "999.9"),
        (999.96, 4, "1,000"),
        (1e15, 4, "1e+15"),
        (9999.6, 4, "10,000"),  # rounds up to five digits
        (999.7, 3, "1,000"),
        (-9999.6, 4, "-10,000"),
        (1e9, 4, "1,000,000,000"),
        (float("inf"), 4, "inf"),
        (float("nan"), 4, "nan"),
    ],
)
def test_numbers_as_people_read_them(value: float | None, digits_shown: int, text: str) -> None:
    assert number(value, digits_shown) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0 ms"),
        (0.00142, "1.42 ms"),
        (0.0000123, "0.0123 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1 s"),
        (59.94, "59.9 s"),
        (75.0, "1 min 15 s"),
        (3599.9, "59 min 59 s"),
        (3600.0, "1 h 0 min"),
        (7384.0, "2 h 3 min"),
        (90000.0, "25 h 0 min"),
    ],
)
def test_times_in_the_unit_that_suits_them(value: float | None, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps"), (21555, "21,555 steps")])
def test_one_of_a_thing_and_many(count: int, text: str) -> None:
    assert plural(count, "step") == text


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain, ünïcode – 漢字\n\tx", "plain, ünïcode – 漢字\n\tx"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),  # would set the window's title
        ("a\rb", "a\\rb"),  # would overwrite the line
        ("\x9b31m", "\\x9b31m"),  # one-byte CSI
        ("\u202eabc", "\\u202eabc"),  # would turn the text around
        ("\ud800", "\\ud800"),  # cannot be encoded
    ],
)
def test_control_characters_are_shown(raw: str, shown: str) -> None:
    assert printable(raw) == shown
