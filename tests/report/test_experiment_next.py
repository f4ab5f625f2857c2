"""What an experiment recommends, at which price, and what it says to run next."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
from made_experiment import QUESTION, SEEDS, by_batch, made_cell, summarize
from rich.console import Console

from scaler.experiment.file import parse_experiment
from scaler.experiment.matrix import make_matrix
from scaler.experiment.recommended import is_of, recommended_job
from scaler.job.located import locate_job
from scaler.job.reading import parse_yaml
from scaler.plan import make_plan
from scaler.report.experiment.charts import experiment_charts
from scaler.report.experiment.model import CellInput, ExperimentReport
from scaler.report.experiment.tables import sheets
from scaler.report.experiment.text import critical_text, experiment_markdown, experiment_text
from scaler.report.experiment.workloads import public_workloads
from scaler.report.run.model import Cost, Report
from scaler.training.recipe.lookup import require_function

DIGITS = Path(__file__).parents[2] / "jobs/digits"
BATCH = "scale.global_batch_size"


@pytest.fixture
def made(sound: Report) -> Callable[..., CellInput]:
    """Make a cell with known values."""
    return partial(made_cell, sound)


def undecided(made: Callable[..., CellInput], **environment: object) -> ExperimentReport:
    """Batch 64 is faster, and its differences to the baseline vary too much to be judged. There is no target."""
    cells = by_batch(made, {16: {"accuracy": 0.95}, 64: {"accuracy": 0.95, "speed": 300.0}})
    shaken = [made(cell.cell, cell.overrides, cell.seed, accuracy=0.938 + 0.006 * cell.seed, speed=300.0)
              for cell in cells[3:]]  # fmt: skip
    return summarize([*cells[:3], *shaken], replace(QUESTION, target=None), **environment)


def test_an_undecided_comparison_names_the_seeds_that_decide_it_for_both_groups(
    made: Callable[..., CellInput],
) -> None:
    report = undecided(made)
    difference = report.groups[1].difference_to_baseline
    assert difference is not None
    assert difference.verdict == "undecided"
    assert report.next is not None
    group, base = report.next.cells
    assert (group.overrides, base.overrides) == ({BATCH: 64}, {BATCH: 16})
    assert group.seeds == base.seeds == tuple(range(3, 3 + len(group.seeds)))
    assert group.why == "whether it is as good as the baseline; it is 3x as fast as the recommended one"
    assert report.next.runs == 2 * len(group.seeds)
    assert report.next.left_out == ()


def test_the_lines_to_paste_add_these_cells_to_the_experiment(made: Callable[..., CellInput]) -> None:
    found = undecided(made).next
    assert found is not None
    values = {"name": "study", "job": "job.yaml", "matrix": {BATCH: [16, 64]}, "seeds": list(SEEDS)}
    longer = parse_experiment({**values, **parse_yaml(found.yaml, source="lines")}, source="study")
    cells = make_matrix(longer, folder=DIGITS, source="study").cells
    wanted = {(cell.overrides[BATCH], seed) for cell in found.cells for seed in (*SEEDS, *cell.seeds)}
    assert {(cell.overrides[BATCH], cell.seed) for cell in cells} == wanted
    assert len(cells) == 6 + found.runs, "no cell is there twice"


def test_a_comparison_that_needs_very_many_seeds_is_named_and_not_listed(made: Callable[..., CellInput]) -> None:
    cells = by_batch(made, {16: {"accuracy": 0.95}, 64: {"accuracy": 0.95}})
    wild = [
        made(cell.cell, cell.overrides, cell.seed, accuracy=0.9 + 0.05 * cell.seed, speed=300.0) for cell in cells[3:]
    ]
    found = summarize([*cells[:3], *wild], replace(QUESTION, target=None)).next
    assert found is not None
    assert (found.cells, found.yaml) == ((), "")
    assert found.left_out[0].startswith("batch 64: whether it is as good as the baseline")
    assert "needs about" in found.left_out[0]


def test_an_optimum_at_the_edge_names_the_next_learning_rate(made: Callable[..., CellInput]) -> None:
    report = summarize(
        by_batch(made, {0.01: {"accuracy": 0.9}, 0.03: {"accuracy": 0.95}}, "reference.lr"),
        replace(QUESTION, baseline={"reference.lr": 0.01}),
    )
    assert report.next is not None
    assert [(cell.overrides, cell.seeds) for cell in report.next.cells] == [({"reference.lr": 0.09}, (0, 1, 2))]


def test_batches_that_are_missing_for_the_critical_batch_are_listed(made: Callable[..., CellInput]) -> None:
    report = summarize(by_batch(made, {16: {"accuracy": 0.95}, 64: {"accuracy": 0.95}}))
    assert report.next is not None
    assert [cell.overrides for cell in report.next.cells] == [{BATCH: 256}]
    assert report.next.cells[0].why == "the critical batch size"


def test_workers_for_a_law_are_listed_only_where_there_are_cpus_for_them(made: Callable[..., CellInput]) -> None:
    speeds = {1: 100.0, 2: 180.0}
    cells = by_batch(
        made, {workers: {"accuracy": 0.95, "speed": speed} for workers, speed in speeds.items()}, "scale.num_workers"
    )
    question = replace(QUESTION, baseline={"scale.num_workers": 1}, target=None)
    small, large = (summarize(cells, question, cpus=cpus).next for cpus in (2, 8))
    assert small is not None
    assert large is not None
    assert small.left_out == ("the job: the law amdahl of strong scaling needs 4 workers, and 4 CPUs",)
    assert [cell.overrides for cell in large.cells] == [{"scale.num_workers": 4}]


def test_an_experiment_that_has_cells_to_run_runs_these_first(made: Callable[..., CellInput]) -> None:
    cells = by_batch(made, {16: {"accuracy": 0.95}, 64: {"accuracy": 0.95}})
    cells[5] = replace(cells[5], report=None)
    assert summarize(cells).next is None


def test_the_metric_at_equal_time_is_read_between_evaluations(made: Callable[..., CellInput]) -> None:
    report = summarize(by_batch(made, {16: {"accuracy": 0.95}, 64: {"accuracy": 0.951, "speed": 250.0}}))
    short, long = report.equal
    assert (short.kind, short.of, long.of) == ("time", "batch 64", "batch 16")
    assert short.amount == pytest.approx(80)
    assert long.amount == pytest.approx(200)
    base, other = short.metrics
    assert base is not None
    assert other is not None
    assert base.value == pytest.approx(0.898), "of 8,000 samples, on the line between 5,000 and 10,000"
    assert other.value == pytest.approx(0.951)
    assert [None if each is None else round(each.value or 0, 3) for each in long.metrics] == [0.95, 0.951]


def test_equal_cost_counts_workers_and_their_price(made: Callable[..., CellInput]) -> None:
    cells = by_batch(made, {1: {"accuracy": 0.95}, 2: {"accuracy": 0.95, "speed": 125.0}}, "scale.num_workers")
    question = replace(QUESTION, baseline={"scale.num_workers": 1})
    costs = [each for each in summarize(cells, question).equal if each.kind == "cost"]
    assert [(each.of, each.unit, round(each.amount)) for each in costs] == [("workers 1", "worker-s", 200)]
    other = costs[0].metrics[1]
    assert other is not None
    assert other.value == pytest.approx(0.9025, abs=1e-6), "100 s of two workers are 12,500 samples"
    priced = [
        replace(
            cell,
            report=replace(
                cell.report,
                cost=Cost(price_per_worker_hour=36.0, worker_hours=1.0, total=36.0, per_million_samples=None),
            ),
        )
        for cell in cells
        if cell.report is not None
    ]
    report = summarize(priced, question)
    costs = [each for each in report.equal if each.kind == "cost"]
    assert [(each.unit, round(each.amount, 6)) for each in costs] == [("", 2.0)]
    assert report.recommendation is not None
    assert report.recommendation.label == "workers 2"
    assert report.recommendation.cost == pytest.approx(0.01 * 2 * 80, rel=1e-2)
    (base,) = report.recommendation.alternatives
    assert base.cost == pytest.approx(0.01 * 100, rel=1e-2)
    assert base.times_as_fast == pytest.approx(0.8)
    assert "cost 1.00" in base.text
    whole = summarize(priced, replace(question, target=None)).recommendation
    assert whole is not None
    assert (whole.time_s, whole.cost) == (pytest.approx(160), pytest.approx(0.01 * 2 * 160))


def test_the_recommendation_is_a_job_file_that_plans_from_where_it_lies(
    made: Callable[..., CellInput], tmp_path: Path
) -> None:
    report = summarize(by_batch(made, {16: {"accuracy": 0.95}, 64: {"accuracy": 0.951, "speed": 250.0}}))
    values = {"name": "study", "job": "job.yaml", "matrix": {BATCH: [16, 64]}, "set": {"reference.lr": 0.03}}
    matrix = make_matrix(parse_experiment(values, source="study"), folder=DIGITS, source="study")
    text = recommended_job(matrix, report, folder=str(tmp_path))
    assert text is not None
    assert text.startswith(
        "# Recommended by the experiment study: batch 64\n# It is as good as the baseline (accuracy "
    )
    assert "\n# Instead, batch 16: 0.4x as fast as the recommended one (1 min 40 s); the baseline.\n" in text
    assert is_of(text, report)
    assert not is_of(text, replace(report, recommendation=None))
    (tmp_path / "recommended.yaml").write_text(text)
    located = locate_job(tmp_path / "recommended.yaml")
    require_function(located.job.recipe, folder=located.recipe_folder)
    plan = make_plan(located.job)
    assert (plan.global_batch_size, plan.peak_lr) == (64, pytest.approx(0.12))
    assert Path(located.job.storage).is_absolute()
    assert "betas" not in text, "defaults are left out"


def test_without_a_known_time_to_the_target_the_throughput_decides(made: Callable[..., CellInput]) -> None:
    report = summarize(
        by_batch(made, {16: {"accuracy": 0.95, "reaches": 0}, 64: {"accuracy": 0.951, "reaches": 0, "speed": 250.0}})
    )
    assert report.groups[0].time_to_target_s is not None
    assert report.groups[0].time_to_target_s.value is None, "the first evaluation is at the target"
    assert report.recommendation is not None
    assert report.recommendation.label == "batch 64"
    assert "and trains 250 samples/s; its time to accuracy 0.9 is not known." in report.answer


def test_the_largest_batch_is_predicted_by_the_others(made: Callable[..., CellInput]) -> None:
    settings = {
        batch: {"accuracy": 0.95, "reaches": 5200.0 * (1 + batch / 200) * factor}
        for batch, factor in ((16, 1.01), (32, 0.99), (64, 1.01), (128, 0.99), (256, 1.0))
    }
    critical = summarize(by_batch(made, settings)).critical_batch
    assert critical is not None
    assert critical.held_out is not None
    assert critical.held_out.place == 256
    assert critical.held_out.measured == pytest.approx(11_856, rel=0.01)
    assert critical.held_out.is_inside
    assert critical.curve[0][0] == 16
    assert critical.curve[-1][0] == 256
    text = critical_text(critical, "samples")
    assert "Fitted without batch 256, it predicts " in text
    assert "inside the interval" in text
    assert f"Of the {len(public_workloads())} public workloads of MLPerf training, 3 have a smaller critical" in text


def test_the_step_time_of_the_most_workers_is_predicted_by_the_others(made: Callable[..., CellInput]) -> None:
    cells: list[CellInput] = []
    for workers in (1, 2, 4, 8):
        for seed in SEEDS:
            speed = 100 / (0.1 + 0.9 / workers) * (1 + 0.004 * (seed - 1))
            cells.append(made(len(cells), {"scale.num_workers": workers}, seed, accuracy=0.95, speed=speed))
    report = summarize(cells, None, cpus=8)
    by_law = {law.law: law for law in report.laws}
    held_out = by_law["amdahl"].held_out
    assert held_out is not None
    assert (held_out.place, held_out.is_inside) == (8, True)
    assert by_law["usl"].held_out is None, "three numbers of workers do not fit three parameters"


def test_strong_and_weak_scaling_have_sentences_and_tables_of_their_own(made: Callable[..., CellInput]) -> None:
    cells: list[CellInput] = []
    for workers in (1, 2):
        for seed in SEEDS:
            cell = made(len(cells), {"scale.num_workers": workers}, seed, accuracy=0.95, speed=90.0 * workers + 10)
            assert cell.report is not None
            plan = {**cell.report.plan, "global_batch_size": 16 * workers}
            cells.append(replace(cell, report=replace(cell.report, plan=plan)))
    report = summarize(cells, None)
    assert [row.kind for row in report.speed] == ["weak", "weak"]
    assert report.answer == (
        "2 workers with 2 times the batch train 1.9 times the samples a second of 1 worker (100 samples/s): weak "
        "scaling, efficiency 0.95."
    )
    shown = {sheet.id: sheet for sheet in sheets(report)}
    assert "strong" not in shown
    assert shown["weak"].head[-2:] == ("throughput", "efficiency")


@pytest.mark.parametrize("width", [40, 60, 100])
def test_a_narrow_terminal_shows_every_value_in_its_width(made: Callable[..., CellInput], width: int) -> None:
    report = undecided(made)
    console = Console(width=width, record=True, file=StringIO())
    console.print(experiment_text(report))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines), "nothing is cut off"
    assert "speed-up" in " ".join(lines)
    assert "  - scale.global_batch_size: 64" in [line.rstrip() for line in lines], "lines to paste are not wrapped"


def test_markdown_has_the_lines_to_paste(made: Callable[..., CellInput]) -> None:
    report = undecided(made)
    assert report.next is not None
    assert f"```\n{report.next.yaml}\n```" in experiment_markdown(report)


def test_a_page_without_a_question_opens_with_the_speed_up(made: Callable[..., CellInput]) -> None:
    speeds = {1: 100.0, 2: 180.0}
    cells = by_batch(
        made, {workers: {"accuracy": 0.95, "speed": speed} for workers, speed in speeds.items()}, "scale.num_workers"
    )
    charts, sections = experiment_charts(summarize(cells, None))
    assert [chart.id for chart in sections["picture"]] == ["strong"]
    assert [chart.id for chart in charts.charts] == ["strong"]
    line, ideal = charts.charts[0].lines
    assert (line.values, ideal.values) == ((1.0, 1.8), (1.0, 2.0))
    assert [len(each) for each in line.repeats] == [3, 3]


def test_a_chart_of_differences_ends_near_the_margin(made: Callable[..., CellInput]) -> None:
    report = summarize(by_batch(made, {16: {"accuracy": 0.95}, 64: {"accuracy": 0.951}, 256: {"accuracy": 0.7}}))
    _, sections = experiment_charts(report)
    worth, good = sections["picture"]
    assert (good.floor, good.ceiling, good.button) == (-0.08, None, "Show all values")
    assert [line.label for line in worth.lines] == ["the job", "ideal on 1 worker"]
    assert worth.lines[1].values == (1.0, 4.0, 16.0)
