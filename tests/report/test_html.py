"""The page: one file, every text escaped, every section there whatever the run left behind."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from scaler.job import parse_job
from scaler.plan import make_plan
from scaler.report.html import render_html
from scaler.report.model import AttemptRow, Final, LrAudit, Report, Series, StepTime, Totals, Verdict, WorkerRow

SECTIONS = ["Verdicts", "Results", "Plan", "Curves", "Workers", "Attempts"]
HOSTILE = "</script><script>alert(1)</script><img src=x onerror='alert(1)'>&\"{{ 7 * 7 }}"
NO_SERIES = Series(
    samples_seen=(),
    loss_mean=(),
    loss_min=(),
    loss_max=(),
    lr=(),
    lr_planned=(),
    eval_samples_seen=(),
    evals={},
)


class Page(HTMLParser):
    """What a browser would make of the page: its elements, its text outside style and script, and its scripts."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.headings: list[str] = []
        self.data: Any = None
        self._open = ""
        self._open_attributes: dict[str, str | None] = {}
        self.feed(source)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open, self._open_attributes = tag, dict(attrs)

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script" and self._open_attributes.get("id") == "report-data":
            self.data = json.loads(data)
        elif self._open not in ("script", "style"):
            self.texts.append(data)
            if self._open == "h2":
                self.headings.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def worker(rank: int, **changes: Any) -> WorkerRow:
    row = WorkerRow(
        rank=rank,
        node=f"node-{rank}",
        pid=41207 + rank,
        steps=90,
        samples=10778,
        loss_mean=0.0927,
        worker_samples_per_s=17455.8,
        step_time_s=StepTime(median=0.00186, p95=0.00348),
        data_wait_s=0.0119,
        compute_s=0.1713,
        sync_wait_s=0.0229,
        peak_memory_gib=0.4607,
    )
    return replace(row, **changes)


def report(**changes: Any) -> Report:
    """A report of two workers that went well."""
    job = parse_job(
        {
            "name": "digits",
            "recipe": "recipe:build",
            "reference": {"global_batch_size": 16, "lr": 0.01, "optimizer": {"name": "sgd", "momentum": 0.9}},
            "scale": {"num_workers": 2, "per_worker_batch_size": 128, "rule": "linear"},
            "schedule": {"name": "cosine", "warmup": {"epochs": 2}},
            "train": {"epochs": 15, "num_samples": 1437},
        },
        source="job.yaml",
    )
    done = Report(
        schema_version=1,
        run_id="digits-20260101-120000-7f3a",
        state="succeeded",
        plan=make_plan(job).to_dict(),
        totals=Totals(samples_seen=21555, steps=90, wall_s=12.5, train_s=0.6174, samples_per_s=34911.7),
        workers=(worker(0), worker(1)),
        final=Final(train_loss_mean=0.0927, eval={"accuracy": 0.96111, "loss": 0.1335}),
        attempts=(
            AttemptRow(
                attempt=0,
                world_size=2,
                global_batch_size=256,
                peak_lr=0.16,
                start_samples=0,
                end_samples=21555,
                ended_by="finished",
            ),
        ),
        lr_audit=LrAudit(checked_steps=90, max_abs_error=0.0),
        verdicts=(),
        failure=None,
        series=Series(
            samples_seen=(0, 256, 512),
            loss_mean=(2.3, None, 1.1),
            loss_min=(2.2, None, 1.0),
            loss_max=(2.4, None, 1.2),
            lr=(0.01, 0.0234, 0.0367),
            lr_planned=(0.01, 0.0234, float("nan")),
            eval_samples_seen=(512, 768),
            evals={"accuracy": (0.5, 0.96111), "loss": (1.2, 0.1335)},
        ),
    )
    return replace(done, **changes)


def test_the_page_is_one_file_that_loads_nothing() -> None:
    source = render_html(report())
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


def test_every_section_is_there_in_order_and_the_verdicts_come_first() -> None:
    assert Page(render_html(report())).headings == SECTIONS


def test_the_headline_says_the_results_in_one_sentence() -> None:
    page = Page(render_html(report()))
    assert "2 workers · 21,555 samples in 90 steps · 34,912 samples/s · accuracy 0.9611" in page.text
    assert "Nothing to report: every record is there" in page.text
    assert "90 steps checked on every worker, largest difference" in page.text


def test_a_verdict_has_its_code_rank_evidence_and_next_step() -> None:
    verdict = Verdict(
        code="worker_without_records",
        rank=1,
        message="Rank 1 started and recorded no step.",
        evidence="1 of 2 workers have records",
        next="Read its log: logs/rank-1.log in the run's folder.",
    )
    text = Page(render_html(report(verdicts=(verdict,)))).text
    for part in (verdict.code, "rank 1", verdict.message, verdict.evidence, verdict.next):
        assert part in text
    assert "Nothing to report" not in text


def test_text_from_outside_stays_text_wherever_it_stands() -> None:
    hostile = report(
        run_id=HOSTILE,
        state=HOSTILE,
        plan={
            **report().plan,
            "schedule": HOSTILE,
            "optimizer": {"name": HOSTILE, HOSTILE: HOSTILE},
            "reasons": {"peak_lr": HOSTILE},
            "warnings": ({"code": HOSTILE, "message": HOSTILE},),
        },
        workers=(worker(0, node=HOSTILE),),
        final=Final(train_loss_mean=0.1, eval={HOSTILE: 0.5}),
        verdicts=(Verdict(code=HOSTILE, rank=None, message=HOSTILE, evidence=HOSTILE, next=HOSTILE),),
        failure=HOSTILE,
        series=replace(report().series, evals={HOSTILE: (0.5, 0.6)}),
    )
    page, clean = Page(render_html(hostile)), Page(render_html(report()))
    assert len(page.all("script")) == len(clean.all("script"))
    assert not page.all("img")
    assert not [attributes for _, attributes in page.elements if "onerror" in attributes]
    assert any(line["label"] == HOSTILE for chart in page.data["charts"] for line in chart["lines"])
    assert page.text.count("{{ 7 * 7 }}") > 10


def test_the_data_block_is_json_that_every_browser_reads() -> None:
    data = Page(render_html(report())).data
    assert [chart["id"] for chart in data["charts"]] == ["loss", "eval-0", "lr"]
    rates = {line["label"]: line["values"] for line in data["charts"][2]["lines"]}
    assert rates == {"used": [0.01, 0.0234, 0.0367], "planned": [0.01, 0.0234, None]}
    assert data["markers"] == []


def test_a_chart_is_told_in_words_too() -> None:
    page = Page(render_html(report()))
    said = "accuracy: from 0.5 to 0.9611; least 0.5 at 512 samples, greatest 0.9611 at 768 samples."
    assert said in page.text
    labels = [
        attributes["aria-label"] or ""
        for attributes in page.all("div")
        if attributes.get("class", "") == "plot with-script"
    ]
    assert len(labels) == 3
    assert any(said in label for label in labels)


def test_each_later_attempt_is_marked_where_it_took_over() -> None:
    first = replace(report().attempts[0], end_samples=512, ended_by="lost")
    second = replace(first, attempt=1, world_size=4, start_samples=512, end_samples=21555, ended_by="finished")
    page = Page(render_html(report(attempts=(first, second))))
    assert page.data["markers"] == [{"samples_seen": 512, "label": "attempt 1: 4 workers"}]
    assert "2, then 4 workers · " in page.text


def test_a_run_without_evaluation_has_no_chart_of_one() -> None:
    series = replace(report().series, eval_samples_seen=(), evals={})
    page = Page(render_html(report(final=Final(train_loss_mean=0.0927, eval={}), series=series)))
    assert [chart["id"] for chart in page.data["charts"]] == ["loss", "lr"]
    assert "34,912 samples/s · training loss 0.0927" in page.text


@pytest.mark.parametrize("values", [{"loss": 0.1335}, {"loss": None}, {"accuracy": None}])
def test_an_evaluation_that_is_not_finite_is_not_known(values: dict[str, float | None]) -> None:
    page = Page(render_html(report(final=Final(train_loss_mean=None, eval=values))))
    assert ("not known: it was not a finite number" in page.text) == (None in values.values())


def test_a_run_without_steps_says_so() -> None:
    empty = report(
        state="running",
        totals=Totals(samples_seen=0, steps=0, wall_s=None, train_s=0.0, samples_per_s=None),
        workers=(),
        final=Final(train_loss_mean=None, eval={}),
        attempts=(),
        lr_audit=LrAudit(checked_steps=0, max_abs_error=None),
        series=NO_SERIES,
    )
    page = Page(render_html(empty))
    assert page.headings == SECTIONS
    for said in ("2 workers · 0 samples in 0 steps", "nothing to draw", "No worker recorded", "No attempt was started"):
        assert said in page.text
    assert "there was no step to check" in page.text


def test_a_failed_run_shows_its_error_and_a_worker_that_recorded_nothing() -> None:
    silent = worker(
        1,
        node=None,
        pid=None,
        steps=0,
        samples=0,
        loss_mean=None,
        worker_samples_per_s=None,
        step_time_s=StepTime(median=0.0, p95=0.0),
    )
    error = 'Traceback (most recent call last):\n  File "recipe.py", line 3\nValueError: \x1b[31m1 < 2'
    page = Page(render_html(report(state="failed", failure=error, workers=(worker(0), silent))))
    assert 'File "recipe.py", line 3 ValueError: \\x1b[31m1 < 2' in page.text
    assert "failed" in page.text
    assert page.text.count("not known: nothing was measured") == 9
    assert len([bar for bar in page.all("div") if bar.get("class") == "bar"]) == 1
