"""The page of plans: one file, every text escaped, every number with its reason."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files

import pytest
from pages import Page

from scaler.job import Job
from scaler.plan import Plan, PlanWarning, make_plan
from scaler.report.page.chart import SERIES
from scaler.report.page.shell import SCRIPTS, STYLES
from scaler.report.plan.html import render_plan_html
from scaler.report.plan.variants import Refused

Digits = Callable[..., Job]

HOSTILE = "</script><script>alert(1)</script><img src=x onerror='alert(1)'>&\"{{ 7 * 7 }}"
GROWING = "scale.batch_schedule={name: doubling, every: {epochs: 4}, max_global_batch_size: 1024}"
GROUPS = "groups=[{match: '*.bias', weight_decay: 0}, {match: 'embed.*', freeze: {epochs: 2}}]"
PARAMETERS = {"embed.weight": 1000, "head.weight": 2000, "head.bias": 20}


def full(digits: Digits) -> Plan:
    """A plan with everything that a plan may have."""
    adam = ("reference.optimizer={name: adamw}", "scale.rule=adam_sde", "scale.betas=power")
    return make_plan(digits(GROWING, GROUPS, *adam, "train.ema={decay: 0.999}"), parameters=PARAMETERS)


def test_the_page_is_one_file_that_loads_nothing(digits: Digits) -> None:
    source = render_plan_html([full(digits)])
    page = Page(source)
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            assert (attributes.get(name) or "").split(":")[0] in ("", "data"), f"<{tag} {name}={attributes[name]}>"
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert policy.count("'sha256-") == len(page.all("script")) - 1  # the data runs nothing
    for word in ("@import", "url(", "fetch(", "XMLHttpRequest", "import("):
        assert word not in source
    assert len(source.encode()) < 200_000


def test_a_plan_has_the_sections_that_it_needs(digits: Digits) -> None:
    assert Page(render_plan_html([full(digits)])).headings == ["Warnings", "Curves", "Batch", "Groups", "Numbers"]
    plain = make_plan(digits("scale.per_worker_batch_size=32"))
    assert Page(render_plan_html([plain])).headings == ["Curves", "Numbers"]


def test_a_sharded_plan_has_its_mesh_and_the_memory_of_a_worker(digits: Digits) -> None:
    plan = make_plan(digits("train.strategy=fsdp"), parameters={"layers": 2**30})
    text = Page(render_plan_html([plan])).text
    assert " mesh 1 x 2 replicate 1, shard 2: the batch is divided among 2 workers " in text
    assert " memory 6 GiB a worker, without activations: 1/2 of weights 4 + gradients 4 + optimizer 4; " in text


def test_every_number_has_its_reason(digits: Digits) -> None:
    plan = full(digits)
    text = Page(render_plan_html([plan])).text
    for name, reason in plan.reasons.items():
        assert f" {name} " in text
        assert reason in text
    assert "peak_lr 0.04 0.01 x 4" in text
    assert "global_batch_size 256 samples 2 workers x 128 samples x 1 micro-step" in text
    assert "optimizer adamw, betas [0.185302, 0.984119], eps 2.5e-09, weight_decay 0.01, amsgrad false betas" in text


def test_every_phase_and_every_group_is_a_row(digits: Digits) -> None:
    text = Page(render_plan_html([full(digits)])).text
    assert "from sample epoch global batch micro-steps batch ratio peak lr betas eps ema_decay" not in text
    assert "11,496 8 1,024 4 x 128 64x 0.08 [0.00117902, 0.937975] 1.25e-09" in text
    assert "3,020 parameters in groups. The parameters of a group share the learning rate" in text
    assert "*.bias 20 1 1x 0.04 0 0" in text
    assert "embed.* 1,000 1 1x 0.04 0.01 2,874" in text


def test_the_curve_is_the_plans_learning_rate(digits: Digits) -> None:
    plan = full(digits)
    data = Page(render_plan_html([plan])).data
    (chart,) = data["charts"]
    assert (chart["id"], [line["label"] for line in chart["lines"]]) == ("lr-0", ["learning rate"])
    clock = data["axes"][0]["places"]["steps"]
    assert {samples for samples, _ in plan.lr_curve} <= set(clock)
    assert chart["lines"][0]["values"] == pytest.approx([plan.whole_step_lr_at(at) for at in clock], rel=1e-5)
    assert [(mark["at"]["samples"], mark["label"]) for mark in data["marks"]] == [
        (5748, "batch 512"),
        (11496, "batch 1,024"),
    ]


def test_a_curve_is_a_sentence_too(digits: Digits) -> None:
    page = Page(render_plan_html([make_plan(digits())]))
    sentence = "learning rate: from 0.01 to 0; least 0 at 21,555 samples, greatest 0.16 at 2,874 samples."
    assert sentence in page.text
    assert sentence in (next(each for each in page.all("div") if each.get("role") == "group")["aria-label"] or "")


def test_a_schedule_that_moves_momentum_has_two_charts(digits: Digits) -> None:
    job = digits("schedule={name: one_cycle, low_momentum: 0.85, high_momentum: 0.95}")
    charts = Page(render_plan_html([make_plan(job)])).data["charts"]
    assert [chart["id"] for chart in charts] == ["lr-0", "momentum-0"]
    assert min(charts[1]["lines"][0]["values"]) == 0.85


def test_several_plans_share_a_chart_and_are_compared(digits: Digits) -> None:
    plans = [make_plan(digits(f"scale.rule={rule}"), size) for rule in ("linear", "sqrt") for size in (1, 2)]
    refused = [
        Refused(workers=size, rule="adam_sde", problem="It has no betas.", remedy="Use sqrt.") for size in (1, 2)
    ]
    page = Page(render_plan_html([*plans, *refused]))
    assert page.headings == ["Plans", "Curves", "Numbers"]
    assert "4 plans · linear, sqrt on 1, 2 workers · 2 refused" in page.text
    assert "2 linear 256 1 x 128 16x 16x 0.16 12 90 1" in page.text
    assert "1 adam_sde Refused It has no betas. Use sqrt. 2 adam_sde Refused It has no betas. Use sqrt." in page.text
    (chart,) = page.data["charts"]
    assert [line["label"] for line in chart["lines"]] == [
        "linear, 1 worker",
        "linear, 2 workers",
        "sqrt, 1 worker",
        "sqrt, 2 workers",
    ]
    assert len(page.all("details")) == 1 + len(plans)


def test_more_plans_than_one_chart_can_take_have_several(digits: Digits) -> None:
    plans = [make_plan(digits(f"scale.rule={rule}"), size) for rule in ("linear", "sqrt") for size in range(1, 9)]
    data = Page(render_plan_html(plans)).data
    assert [len(chart["lines"]) for chart in data["charts"]] == [SERIES, 2, SERIES, 2]
    assert data["charts"][0]["lines"][0]["label"] == "1 worker"


def test_a_plan_that_ends_sooner_has_no_values_after_its_end(digits: Digits) -> None:
    plans = [make_plan(digits("train={steps: 100, num_samples: 1437}"), size) for size in (1, 2)]
    data = Page(render_plan_html(plans)).data
    first, second = (line["values"] for line in data["charts"][0]["lines"])
    assert data["axes"][0]["places"]["steps"][-1] == plans[1].total_samples
    assert first[-1] is None
    assert None not in second


def test_text_from_outside_stays_text_wherever_it_stands(digits: Digits) -> None:
    sound = full(digits)
    hostile = replace(
        sound,
        name=HOSTILE,
        optimizer={"name": HOSTILE, "lr": 0.1, HOSTILE: HOSTILE},
        reasons=dict.fromkeys(sound.reasons, HOSTILE),
        rule=HOSTILE,
        rule_reason=HOSTILE,
        warnings=(PlanWarning(code=HOSTILE, message=HOSTILE),),
        groups=tuple(replace(group, name=HOSTILE) for group in sound.groups),
    )
    refused = Refused(workers=1, rule=HOSTILE, problem=HOSTILE, remedy=HOSTILE)
    for outcomes in ([hostile], [hostile, sound, refused]):
        page = Page(render_plan_html(outcomes))
        assert len(page.all("script")) == 1 + len(SCRIPTS)
        assert not page.all("img")
        assert not [attributes for _, attributes in page.elements if "onerror" in attributes]
        assert page.text.count("{{ 7 * 7 }}") > 10
        assert page.data is not None


def test_control_characters_are_shown(digits: Digits) -> None:
    plan = replace(full(digits), optimizer={"name": "a\x1b[31m", "lr": 0.1})
    assert "a\\x1b[31m" in Page(render_plan_html([plan])).text


def test_the_styles_have_a_colour_a_dash_and_a_sign_for_every_series() -> None:
    styles = "".join(files("scaler.report.page").joinpath("static", name).read_text() for name in STYLES)
    numbers = [str(index) for index in range(SERIES)]
    assert re.findall(r"--series-(\d): #", styles) == 2 * numbers  # light and dark
    assert re.findall(r"--series-(\d)-dash:", styles) == numbers
    assert re.findall(r"\.key-series-(\d) line", styles) == numbers
    assert re.findall(r"\.card\.series-(\d)", styles) == numbers


def test_the_styles_have_every_colour_that_a_script_asks_for() -> None:
    static = files("scaler.report.page").joinpath("static")
    styles = "".join(static.joinpath(name).read_text() for name in STYLES)
    scripts = "".join(static.joinpath(name).read_text() for name in SCRIPTS if "uPlot" not in name)
    names = re.findall(r'colour\("([\w-]+)"\)', scripts)
    assert names
    for name in names:
        assert f"--{name}: " in styles


def test_checkpoints_by_time_are_in_seconds(digits: Digits) -> None:
    text = Page(render_plan_html([make_plan(digits("checkpoint.every={seconds: 90}"))])).text
    assert "checkpoint_every_s 1 min 30 s between two checkpoints" in text
    assert "checkpoint_every_samples" not in text


def test_what_is_kept_and_what_a_resize_does_stand_among_the_numbers(digits: Digits) -> None:
    job = digits("scale.num_workers={min: 1, max: 4}", "checkpoint.best={metric: accuracy, mode: max}")
    text = Page(render_plan_html([make_plan(job)], job=job)).text
    assert "world_size 4 workers elastic, 1 to 4; scale_with_batch: batch and learning rate are planned again" in text
    climb = "from the old learning rate to the new, after a resize that raises it more than 1.5x"
    assert f"rewarmup_samples 25,600 samples {climb}" in text
    kept = "between checkpoints, and one at the end; the newest 2 are kept, and the one with the greatest accuracy"
    assert f"checkpoint_every_samples 7,185 samples {kept}" in text


def test_a_page_of_a_plan_alone_leaves_the_job_s_own_out(digits: Digits) -> None:
    text = Page(render_plan_html([make_plan(digits("scale.num_workers={min: 1, max: 4}"))])).text
    assert "world_size 4 workers as requested" in text
    assert "rewarmup_samples" not in text


def test_a_metric_s_name_stays_text(digits: Digits) -> None:
    job = digits(f"checkpoint={{best: {{metric: {json.dumps(HOSTILE)}}}}}")
    page = Page(render_plan_html([make_plan(job)], job=job))
    assert len(page.all("script")) == 1 + len(SCRIPTS)
    assert "{{ 7 * 7 }}" in page.text
