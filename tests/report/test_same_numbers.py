"""A number has the same text wherever it is shown."""

from collections.abc import Callable

import pytest
from pages import Page
from rich.console import Console
from synthetic import SYNTHETIC_JOB, SyntheticRun

from scaler.job import Job
from scaler.plan import make_plan
from scaler.report.compare.arms import Member
from scaler.report.compare.html import render_comparison_html
from scaler.report.compare.summary import compare_runs
from scaler.report.compare.text import comparison_text
from scaler.report.plan.html import render_plan_html
from scaler.report.plan.text import plan_text
from scaler.report.run.html import render_html

OPTIONS = ("eps: 1.2345678e-8", "betas: [0.9, 0.99987654]", "weight_decay: 0.0123456")
TEXTS = ("1.2345678e-08", "0.99987654", "0.0123456")
LR = "0.0012345"


@pytest.mark.parametrize(
    "view", ["plan text", "plan page", "plans page", "report page", "comparison page", "comparison"]
)
def test_options_and_learning_rates_are_as_the_job_gives_them(digits: Callable[..., Job], view: str) -> None:
    optimizer = f"reference.optimizer={{name: adamw, {', '.join(OPTIONS)}}}"
    same_batch = ("reference.global_batch_size=16", "scale.rule=sqrt", f"reference.lr={LR}")
    base, job = digits(*SYNTHETIC_JOB), digits(*SYNTHETIC_JOB, *same_batch, optimizer)
    plan = make_plan(job)

    def member(job: Job) -> Member:
        return Member(jobs=(job,), report=SyntheticRun(job=job, plan=make_plan(job)).attempt(0).report())

    def printed(rendered: object) -> str:
        console = Console(width=300, highlight=False, color_system=None)
        with console.capture() as captured:
            console.print(rendered)
        return captured.get()

    shown = {
        "plan text": lambda: printed(plan_text(plan)),
        "plan page": lambda: Page(render_plan_html([plan])).text,
        "plans page": lambda: Page(render_plan_html([plan, plan])).text,
        "report page": lambda: Page(render_html(member(job).report)).text,
        "comparison page": lambda: Page(render_comparison_html(compare_runs([member(base), member(job)]))).text,
        "comparison": lambda: printed(comparison_text(compare_runs([member(base), member(job)]))),
    }
    text = shown[view]()
    for number in (*TEXTS, LR):
        assert number in text, number
