"""The page: one file, every text escaped, every section there whatever the run left behind."""

from dataclasses import replace

import pytest
from pages import Page
from synthetic import SyntheticRun

from scaler.report.run.html import render_html
from scaler.report.run.model import Cost, Decision, Final, Flops, Noise, Scaling, Verdict

SECTIONS = ["Verdicts", "Results", "Curves", "Workers", "Attempts", "Plan"]
MEASURED = ["speed", "step", "memory", "gradient"]  # charts of what every record holds
HOSTILE = "</script><script>alert(1)</script><img src=x onerror='alert(1)'>&\"{{ 7 * 7 }}"


@pytest.fixture
def run(synthetic_run: SyntheticRun) -> SyntheticRun:
    """A run of two workers that went well: 200 samples in 14 steps of an eighth of a second."""
    run = synthetic_run.attempt(0, loss=lambda rank, seen: 2.0 + rank)
    return run.evaluated(100, accuracy=0.5, loss=1.2).evaluated(200, accuracy=0.96111, loss=0.1335)


def test_the_page_is_one_file_that_loads_nothing(run: SyntheticRun) -> None:
    source = render_html(run.report())
    page = Page(source)
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            assert (attributes.get(name) or "").split(":")[0] in ("", "data"), f"<{tag} {name}={attributes[name]}>"
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    for word in ("@import", "url(", "fetch(", "XMLHttpRequest", "import("):
        assert word not in source
    assert len(source.encode()) < 300_000


def test_every_section_is_there_in_order_and_the_verdicts_come_first(run: SyntheticRun) -> None:
    assert Page(render_html(run.report())).headings == SECTIONS


def test_the_headline_says_the_results_in_one_sentence(run: SyntheticRun) -> None:
    page = Page(render_html(run.report()))
    assert "2 workers · 200 samples in 14 steps · 114.3 samples/s · accuracy 0.9611" in page.text
    assert "Nothing to report: every record is there" in page.text
    assert "Learning rate audit: as planned in 14 steps." in page.text


def test_a_verdict_has_its_code_rank_evidence_and_next_step(run: SyntheticRun) -> None:
    verdict = Verdict(
        code="worker_without_records",
        rank=1,
        message="Rank 1 started and recorded no step.",
        evidence="1 of 2 workers have records",
        next="Read its log: scaler logs digits-1 --rank 1.",
    )
    text = Page(render_html(run.report(verdicts=(verdict,)))).text
    for part in (verdict.code, "rank 1", verdict.message, verdict.evidence, verdict.next):
        assert part in text
    assert "Nothing to report" not in text


def test_text_from_outside_stays_text_wherever_it_stands(run: SyntheticRun) -> None:
    sound = run.report()
    hostile = run.report(
        run_id=HOSTILE,
        state=HOSTILE,
        plan={
            **sound.plan,
            "schedule": {"name": HOSTILE},
            "groups": ({"name": HOSTILE, "peak_lr": 0.1, "frozen": False, "unfreeze_at": None},),
            "optimizer": {"name": HOSTILE, HOSTILE: HOSTILE},
            "reasons": {"peak_lr": HOSTILE},
            "warnings": ({"code": HOSTILE, "message": HOSTILE},),
        },
        workers=(replace(sound.workers[0], node=HOSTILE, device=HOSTILE),),
        final=Final(train_loss_mean=0.1, eval={HOSTILE: 0.5}),
        verdicts=(Verdict(code=HOSTILE, rank=None, message=HOSTILE, evidence=HOSTILE, next=HOSTILE),),
        attempts=(replace(sound.attempts[0], ended_by=HOSTILE, cause=f"{HOSTILE}\x1b[31m"), sound.attempts[0]),
        decisions=(
            Decision(samples_seen=16, elapsed_s=None, attempt=0, kind="diverged", message=HOSTILE, undone=False),
        ),
        noise=Noise(noise_scale=1.0, lower=None, upper=None, measured_steps=1, meaning=HOSTILE),
        failure=HOSTILE,
        series=replace(sound.series, evals={HOSTILE: (0.5, 0.6)}),
        scaling=Scaling(
            world_size=2, worker_samples_per_s=1.0, one_worker_samples_per_s=2.0, efficiency=0.5, source=HOSTILE
        ),
    )
    page, clean = Page(render_html(hostile)), Page(render_html(sound))
    assert len(page.all("script")) == len(clean.all("script"))
    assert not page.all("img")
    assert not [attributes for _, attributes in page.elements if "onerror" in attributes]
    assert any(line["label"] == HOSTILE for chart in page.data["charts"] for line in chart["lines"])
    assert page.text.count("{{ 7 * 7 }}") > 10
    assert "{{ 7 * 7 }}\\x1b[31m" in page.text


def test_causes_of_events_stay_text_and_show_their_control_characters(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96).hung(1, where=f"\x1b[31m{HOSTILE}")
    run = run.event("checkpoint_failed", 96, reason=f"\x1b[31m{HOSTILE}").attempt(1, start=64)
    source = render_html(run.report())
    page = Page(source)
    assert not page.all("img")
    assert "\x1b" not in source
    cause = f"\\x1b[31m{HOSTILE}"
    assert page.text.count(cause) == 3, "in the attempts and in two verdicts"
    assert f"lost {cause}" not in page.text
    assert f"hung rank 1 hung for 600 s: computing, {cause} 32" in page.text


def test_what_restarts_cost_is_among_the_results(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96).left("resize", "2 -> 1 workers").later(3.2)
    page = Page(render_html(run.attempt(1, start=64, world_size=1).report()))
    assert "trained again 32 samples, 250 ms, after restarts" in page.text
    assert "restarting 3.2 s between attempts" in page.text
    assert "resized resized: 2 -> 1 workers 32 3.2 s" in page.text
    assert "Nothing to report" in page.text
    calm = Page(render_html(synthetic_run.attempt(0).report()))
    assert "restarting" not in calm.text


def test_the_data_block_is_json_that_every_browser_reads(run: SyntheticRun) -> None:
    diverged = run.altered(lambda record: (record.rank, record.step) == (0, 2), lr=float("nan"), loss=float("nan"))
    data = Page(render_html(diverged.report())).data
    assert [chart["id"] for chart in data["charts"]] == ["loss", "eval-0", "lr", *MEASURED]
    loss, lr = ({line["label"]: line["values"] for line in data["charts"][index]["lines"]} for index in (0, 2))
    assert loss["training, mean over ranks"][:4] == [2.5, 2.5, None, 2.5]
    assert lr["used"][2] is None
    assert lr["planned"] == [run.plan.lr_at(seen) for seen in data["axes"][0]["places"]["steps"]]
    assert data["marks"] == []


def test_a_chart_is_a_sentence_too(run: SyntheticRun) -> None:
    page = Page(render_html(run.report()))
    sentence = "accuracy: from 0.5 to 0.9611; least 0.5 at 100 samples, greatest 0.9611 at 200 samples."
    assert sentence in page.text
    labels = [
        attributes["aria-label"] or ""
        for attributes in page.all("div")
        if attributes.get("class", "") == "plot with-script"
    ]
    assert len(labels) == len(page.data["charts"])
    assert any(sentence in label for label in labels)


def test_each_later_attempt_is_marked_where_it_took_over(synthetic_run: SyntheticRun) -> None:
    page = Page(render_html(synthetic_run.attempt(0, stop=96).attempt(1, start=64, world_size=4).report()))
    (mark,) = page.data["marks"]
    assert (mark["at"], mark["label"]) == ({"samples": 64, "time": 0.75}, "attempt 1: 4 workers")
    assert "2, then 4 workers · " in page.text


def test_a_run_without_evaluation_has_no_chart_of_one(synthetic_run: SyntheticRun) -> None:
    page = Page(render_html(synthetic_run.attempt(0).report()))
    assert [chart["id"] for chart in page.data["charts"]] == ["loss", "lr", *MEASURED]
    assert "114.3 samples/s · train loss 2" in page.text


@pytest.mark.parametrize("values", [{"loss": 0.1335}, {"loss": None}, {"accuracy": None}])
def test_an_evaluation_that_is_not_finite_is_not_known(
    synthetic_run: SyntheticRun, values: dict[str, float | None]
) -> None:
    page = Page(render_html(synthetic_run.attempt(0).evaluated(200, **values).report()))
    assert ("not known: it was not a finite number" in page.text) == (None in values.values())


def test_a_run_without_steps_says_so(synthetic_run: SyntheticRun) -> None:
    page = Page(render_html(replace(synthetic_run, state="running").report()))
    assert page.headings == SECTIONS
    for text in ("2 workers · 0 samples in 0 steps", "nothing to draw", "No worker recorded", "No attempt was started"):
        assert text in page.text
    assert "Learning rate audit: no step recorded." in page.text


def test_a_learning_rate_that_is_nan_is_not_as_planned(run: SyntheticRun) -> None:
    page = Page(render_html(run.altered(lambda record: record.step == 5, lr=float("nan")).report()))
    assert "Learning rate audit: not as planned in 14 steps, largest difference –." in page.text


def test_a_failed_run_shows_its_error_and_a_worker_that_recorded_nothing(run: SyntheticRun) -> None:
    error = 'Traceback (most recent call last):\n  File "recipe.py", line 3\nValueError: \x1b[31m1 < 2'
    silent = replace(
        run,
        records=tuple(record for record in run.records if record.rank == 0),
        state="failed",
        failure=error,
    ).report()
    first, second = silent.workers
    page = Page(render_html(replace(silent, workers=(first, replace(second, node=None, pid=None)))))
    assert 'File "recipe.py", line 3 ValueError: \\x1b[31m1 < 2' in page.text
    assert "failed" in page.text
    assert page.text.count("not known: nothing was measured") == 16  # 14 of rank 1, and both ranks' use of devices
    assert len([bar for bar in page.all("div") if bar.get("class") == "bar" and bar.get("role") == "img"]) == 1


def test_decisions_have_a_section_and_marks_in_every_chart(eventful: SyntheticRun) -> None:
    report = eventful.report()
    page = Page(render_html(report))
    assert page.headings == [*SECTIONS[:5], "Decisions", SECTIONS[5]]
    marks = [(mark["at"]["samples"], mark["label"], mark["style"]) for mark in page.data["marks"]]
    assert [mark["at"]["time"] for mark in page.data["marks"]] == sorted(
        [report.attempts[1].elapsed_s, *(decision.elapsed_s for decision in report.decisions)]
    )
    assert marks == [
        (64, "attempt 1: 2 workers", "dashed"),
        (96, "diverged", "dotted"),
        (100, "batch grown", "dotted"),
        (164, "lr lowered", "dotted"),
    ]
    assert "96 0 The training diverged and returned to the checkpoint at 64 samples: loss is nan." in page.text
    assert "1 2 16 -> 32 0.04 64 200 finished 0 –" in page.text


def test_an_undone_decision_is_listed_and_not_drawn(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96).event("lr_lowered", 80, by="plateau", factor=0.5, reason="no better")
    page = Page(render_html(run.attempt(1, start=64).report()))
    assert [mark["at"]["samples"] for mark in page.data["marks"]] == [64]
    assert "no better. (undone: a later attempt started before it)" in page.text


def test_the_noise_scale_is_drawn_with_the_batch_and_called_an_estimate(eventful: SyntheticRun) -> None:
    report = eventful.report()
    page = Page(render_html(report))
    (chart,) = (chart for chart in page.data["charts"] if chart["id"] == "noise")
    assert [(line["clock"], line["style"]) for line in chart["lines"]] == [("noise", "solid"), ("steps", "dashed")]
    assert chart["lines"][0]["values"] == list(report.series.noise_scale)
    assert len(page.data["axes"][0]["places"]["noise"]) == len(report.series.noise_scale)
    assert "samples, an estimate; 90% " in page.text
    assert "Gradient noise scale, from 11 steps: An estimate of the batch at which" in page.text


def test_a_run_whose_noise_was_not_measured_does_not_speak_of_it(run: SyntheticRun) -> None:
    page = Page(render_html(run.report()))
    assert "noise" not in page.text
    assert "noise" not in [chart["id"] for chart in page.data["charts"]]


def test_the_schedule_is_named(run: SyntheticRun) -> None:
    assert "schedule cosine half a cosine" in Page(render_html(run.report())).text


def test_the_wall_clock_is_shown_in_its_parts(run: SyntheticRun) -> None:
    report = run.report()
    page = Page(render_html(report))
    assert report.budget is not None
    assert "Where the 10.5 s went" in page.text
    assert "compute 875 ms 8%" in page.text
    running = Page(render_html(run.report(budget=None)))
    assert "Where the" not in running.text


def test_efficiency_and_cost_are_among_the_results(run: SyntheticRun) -> None:
    scaling = Scaling(
        world_size=2, worker_samples_per_s=90.0, one_worker_samples_per_s=100.0, efficiency=0.9, source="attempt 0"
    )
    cost = Cost(price_per_worker_hour=2.5, worker_hours=8.0, total=20.0, per_million_samples=0.5)
    flops = Flops(flops_per_sample=1e9, worker_tflops=40.0, peak_tflops=100.0, mfu=0.4)
    text = Page(render_html(run.report(scaling=scaling, cost=cost, flops=flops))).text
    assert "efficiency 90% 90 samples/s a worker, against 100 of one alone (attempt 0)" in text
    assert "cost 20.00 8 worker-hours at 2.50 each; 0.50 a million samples" in text
    assert "MFU 40% 40 of 100 TFLOPS a worker" in text
    unknown = replace(scaling, one_worker_samples_per_s=None, efficiency=None, source=None)
    assert (
        "set reference.samples_per_s to compare with one alone" in Page(render_html(run.report(scaling=unknown))).text
    )


def test_a_time_that_is_not_known_takes_its_own_place_off_the_axis_alone(run: SyntheticRun) -> None:
    series = run.report().series
    page = Page(render_html(run.report(series=replace(series, elapsed_s=(None, *series.elapsed_s[1:])))))
    assert page.data["axes"][1]["places"]["steps"] == [None, *series.elapsed_s[1:]]
    assert len([field for field in page.all("input") if field.get("name") == "axis"]) == 2
    assert page.text.count("1 of 14 points is not drawn over time: its time is not known.") == len(MEASURED) + 1
    assert "1 of 16 points is not drawn over time" in page.text, "the loss, with its two evaluations"
    assert "not drawn" not in Page(render_html(run.report())).text


def test_a_run_of_which_no_time_is_known_is_shown_over_samples_alone(run: SyntheticRun) -> None:
    series = run.report().series
    unknown = {name: (None,) * len(getattr(series, name)) for name in ("elapsed_s", "eval_elapsed_s")}
    page = Page(render_html(run.report(series=replace(series, **unknown))))
    assert len(page.data["axes"]) == 1
    assert not [field for field in page.all("input") if field.get("name") == "axis"]


def test_a_rank_that_a_verdict_is_about_is_marked_in_the_table(run: SyntheticRun) -> None:
    verdict = Verdict(code="straggler", rank=1, message="m", evidence="e", next="n")
    page = Page(render_html(run.report(verdicts=(verdict,))))
    assert [row.get("class") for row in page.all("tr")].count("marked") == 1


def test_of_more_workers_than_fit_the_slowest_come_first(run: SyntheticRun) -> None:
    """The table scrolls: a straggler of high rank would be out of sight."""
    (first, *_) = run.report().workers
    for count, ranks, is_by_rank in ((12, ["0", "1", "2"], True), (13, ["12", "11", "10"], False)):
        workers = tuple(replace(first, rank=rank, compute_s=float(rank)) for rank in range(count))
        page = Page(render_html(run.report(workers=workers)))
        shown = [
            cell.get("data-value") for cell in page.all("th") if cell.get("scope") == "row" and "data-value" in cell
        ]
        assert shown[:3] == ranks
        assert ("The 13 workers are sorted by their data wait and compute in a step" in page.text) is not is_by_rank
        assert [cell.get("aria-sort") for cell in page.all("th")].count("ascending") == (1 if is_by_rank else 0)


def test_paper_gets_the_slowest_of_very_many_workers(run: SyntheticRun) -> None:
    (first, *_) = run.report().workers
    workers = tuple(replace(first, rank=rank, compute_s=float(rank)) for rank in range(100))
    page = Page(render_html(run.report(workers=workers)))
    rest = [row.get("class") for row in page.all("tr")].count("rest")
    assert rest == 36
    assert "On paper: the 64 workers with the longest data wait and compute in a step, of 100." in page.text
