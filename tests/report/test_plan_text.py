"""A plan in the terminal: compared whole, never wider than 80 columns, curves that fit any terminal."""

from collections.abc import Callable
from io import BytesIO, StringIO, TextIOWrapper

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from scaler.job import Job
from scaler.plan import Plan, make_plan
from scaler.report.plan.text import plan_text, plans_table
from scaler.report.plan.variants import Refused, among
from scaler.report.text.curves import Axis, Curve, CurveChart, axis
from scaler.report.text.format import option

Golden = Callable[[str, str], None]
Digits = Callable[..., Job]

GROWING = "scale.batch_schedule={name: doubling, every: {epochs: 4}, max_global_batch_size: 1024}"
ADAM = ("reference.optimizer={name: adamw}", "scale.rule=adam_sde", "scale.betas=power")
PARAMETERS = {
    "embed.weight": 38_597_376,
    **{f"blocks.{n}.{name}": size for n in range(11) for name, size in (("weight", 7_077_888), ("bias", 9_216))},
    "head.weight": 768_000,
    "head.bias": 1_000,
}
GROUPS = (
    "groups=[{match: '*.bias', weight_decay: 0}, {match: 'embed.*', freeze: {epochs: 2}}, "
    "{match: '*.1.*', freeze: true}]"
)
LAYERS = "layer_decay={factor: 0.75, layers: ['embed.*', 'blocks.{n}.*', 'head.*']}"


def rendered(what: RenderableType, *, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width, highlight=False, markup=False, color_system=None)
    with console.capture() as captured:
        console.print(what)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().rstrip().split("\n"))


def grouped(digits: Digits, *overrides: str) -> Plan:
    adamw = "reference.optimizer={name: adamw, weight_decay: 0.05}"
    return make_plan(digits(adamw, "scale.rule=sqrt", GROUPS, LAYERS, *overrides), parameters=PARAMETERS)


def test_the_learning_rate_is_drawn_below_the_numbers(digits: Digits, golden: Golden) -> None:
    golden("plan-curve.txt", rendered(plan_text(make_plan(digits()), with_curve=True)))


def test_clipping_loaders_and_the_samples_that_are_used_are_shown(digits: Digits) -> None:
    job = digits("train.clip_grad_norm=1.5", "train.data_workers=2", "train.last_batch=drop")
    lines = [" ".join(line.split()) for line in rendered(plan_text(make_plan(job), job=job), width=200).splitlines()]
    assert "clipping 1.5 train.clip_grad_norm: the largest norm of the gradient" in lines
    assert "data workers 2 train.data_workers: processes per worker that load its data" in lines
    used = "75 x 256 = 19,200 are used, 2,355 left out"
    assert f"training 75 steps epochs: 15; 21,555 samples; {used}" in lines
    assert "left out" not in rendered(plan_text(make_plan(digits()), job=digits()))


def test_a_schedule_that_moves_momentum_has_two_curves(digits: Digits, golden: Golden) -> None:
    job = digits("schedule={name: one_cycle, low_momentum: 0.85, high_momentum: 0.95}", "reference.lr=3e-6")
    golden("plan-cycle.txt", rendered(plan_text(make_plan(job), with_curve=True)))


def test_a_sharded_job_says_its_mesh_and_the_memory_of_a_worker(digits: Digits, golden: Golden) -> None:
    elastic = ("scale.num_workers={min: 4, max: 16}", "train.strategy=fsdp", "scale.mesh={replicate: 2}")
    job = digits(*elastic, "reference.optimizer={name: adamw}", "scale.rule=sqrt", "scale.per_worker_batch_size=8")
    plan = make_plan(job, parameters={"layers": 7_000_000_000})
    golden("plan-sharded.txt", rendered(plan_text(plan, job=job)))
    assert "mesh" not in make_plan(digits("scale.num_workers=4")).reasons


def test_large_ratios_are_written_out(digits: Digits) -> None:
    text = rendered(plan_text(make_plan(digits("scale.per_worker_batch_size=250000"))))
    assert "  batch ratio   31,250x   " in text
    assert "  lr ratio      31,250x   " in text


ELASTIC = "scale.num_workers={min: 1, max: 4}"
BEST = "checkpoint.best={metric: accuracy, mode: max}"


def test_an_elastic_job_says_what_a_resize_does_and_what_is_kept(digits: Digits, golden: Golden) -> None:
    job = digits(ELASTIC, BEST)
    golden("plan-elastic.txt", rendered(plan_text(make_plan(job), job=job)))


@pytest.mark.parametrize(
    ("overrides", "workers", "sizes", "climb"),
    [
        ([], 4, "elastic, 1 to 4; scale_with_batch: batch and learning rate are planned", "50 steps"),
        (["scale.rewarmup={above: 2, epochs: 1}"], 4, "elastic, 1 to 4; scale_with_batch: batch and ", "1 epoch"),
        (
            ["scale.rewarmup=null"],
            4,
            "elastic, 1 to 4; scale_with_batch: batch and learning rate are planned",
            "none",
        ),
        (["scale.rule=none"], 4, "elastic, 1 to 4; scale_with_batch: batch and learning rate are planned", None),
        (
            ["scale.on_resize=hold_global_batch"],
            4,
            "hold_global_batch: batch and learning rate are those of 4 workers",
            None,
        ),
        (
            ["scale.global_batch_size=64"],
            4,
            "elastic, 1 to 4; global_batch_size is fixed, and so is the",
            None,
        ),
        ([], 8, "", None),  # a size that this run does not get
    ],
)
def test_a_rewarmup_is_shown_if_a_resize_can_raise_the_learning_rate(
    digits: Digits, overrides: list[str], workers: int, sizes: str, climb: str | None
) -> None:
    job = digits(ELASTIC, "schedule.warmup={samples: 0}", *overrides)
    text = rendered(plan_text(make_plan(job, workers), job=job), width=160)
    assert sizes in text
    assert ("elastic" in text) == bool(sizes)
    assert (f"  rewarmup      {climb} " in text) if climb is not None else ("rewarmup" not in text)


@pytest.mark.parametrize(
    ("checkpoint", "often", "which"),
    [
        ("{every: {epochs: 1}, keep: 1}", "1 epoch", "the newest is kept"),
        ("{every: {epochs: 0.5}}", "0.5 epochs", "the newest 2 are kept"),
        ("{every: {steps: 1000}, keep: 1000}", "1,000 steps", "the newest 1,000 are kept"),
        ("{every: {samples: 100000}}", "100,000 samples", "the newest 2 are kept"),
        ("{every: {seconds: 90}}", "1 min 30 s", "the newest 2 are kept"),
        ("{best: {metric: loss}}", "1 epoch", "the newest 2 are kept, and the one with the least loss"),
    ],
)
def test_what_is_kept_to_go_on_from_is_a_line(digits: Digits, checkpoint: str, often: str, which: str) -> None:
    job = digits(f"checkpoint={checkpoint}")
    lines = rendered(plan_text(make_plan(job), job=job), width=160).splitlines()
    (line,) = [line for line in lines if line.startswith("  checkpoint ")]
    assert line.split(maxsplit=1)[1].split("  ", 1)[0] == often
    assert line.endswith(f"between checkpoints, and one at the end; {which}")


def test_a_growing_batch_shows_every_change(digits: Digits, golden: Golden) -> None:
    scaled = ("train.ema={decay: 0.999}", "scale.co_scale={ema: true, weight_decay: true}")
    plan = make_plan(digits(GROWING, *ADAM, *scaled))
    assert len(plan.phases) == 3
    golden("plan-phases.txt", rendered(plan_text(plan, with_curve=True)))


def test_only_constants_that_follow_the_batch_are_listed_again(digits: Digits) -> None:
    text = rendered(plan_text(make_plan(digits(GROWING))))
    assert "Batch, in 3 phases" in text
    assert "What else follows the batch" not in text


def test_every_group_has_its_learning_rate_and_parameters(digits: Digits, golden: Golden) -> None:
    golden("plan-groups.txt", rendered(plan_text(grouped(digits))))


def test_what_reacts_during_the_run_is_shown(digits: Digits) -> None:
    noisy = "scale.batch_schedule={name: noise_scale, every: {epochs: 2}, max_global_batch_size: 1024}"
    text = rendered(plan_text(make_plan(digits(noisy, "failures.divergence={then: go_back}"))), width=120)
    assert (
        "reacts to     noise_scale  the batch grows when the gradient noise scale allows it, "
        "checked every 2,874 samples\n" in text
    )
    assert "reacts to     divergence   after a divergence, training returns to a checkpoint with a lower lr\n" in text


def test_steps_that_are_measured_are_at_least_so_many(digits: Digits) -> None:
    plan = make_plan(digits("scale.rule=adascale"))
    assert f"training      {plan.total_steps} steps or more  " in rendered(plan_text(plan))
    assert "reacts to     adascale " in rendered(plan_text(plan))
    assert rendered(plans_table([plan, make_plan(digits())])).count("or more") == 1


def test_an_optimizer_with_a_path_is_named_by_its_class(digits: Digits) -> None:
    job = digits("reference.optimizer={name: torch.optim:NAdam, weight_decay: 0.01}", "scale.rule=sqrt")
    text = rendered(plan_text(make_plan(job)))
    assert "  optimizer     NAdam     torch.optim:NAdam\n" in text


@pytest.mark.parametrize("what", ["plan", "elastic", "groups", "phases", "plans", "rules"])
def test_nothing_is_wider_than_80_columns(digits: Digits, what: str) -> None:
    huge = ("scale.num_workers=4096", "train.num_samples=1281167", "train.epochs=90")
    large = digits(*huge)
    many = ("scale.num_workers={min: 1000, max: 4096}", "checkpoint={every: {samples: 1000000000000}, keep: 1000000}")
    elastic = digits(*huge[1:], *many, f"checkpoint.best={{metric: {'m' * 100}}}")
    scaled = ("reference.lr=1e-6", "train.ema={decay: 0.9999}", "scale.co_scale={ema: true, weight_decay: true}")
    doubling = "scale.batch_schedule={name: doubling, every: {epochs: 5}, max_global_batch_size: 33554432}"
    plans = [make_plan(large, workers) for workers in (1, 64, 4096)]
    rules = [make_plan(digits(*huge, *ADAM, f"scale.rule={rule}"), 4096) for rule in ("adam_sde",)]
    refused = Refused(
        workers=4096, rule="power", problem="scale has rule: power and no exponent. " * 5, remedy="Give it."
    )
    shown = {
        "plan": lambda: plan_text(plans[-1], with_curve=True),
        "elastic": lambda: plan_text(make_plan(elastic), job=elastic),
        "groups": lambda: plan_text(grouped(digits, *huge[:1]), with_curve=True),
        "phases": lambda: plan_text(make_plan(digits(*huge, doubling, *ADAM, *scaled)), with_curve=True),
        "plans": lambda: plans_table(plans, with_curve=True),
        "rules": lambda: plans_table([*plans, *rules, refused], with_curve=True),
    }[what]()
    lines = rendered(shown).splitlines()
    assert max(len(line) for line in lines) <= 80
    assert not [line for line in lines if line.rstrip().endswith("…")], "a number was cut off"


def test_names_from_outside_are_shown_and_not_obeyed(digits: Digits) -> None:
    hostile = {"a\x1b[31m[bold].weight": 10, "b\u202e.weight": 20}
    job = digits("groups=[{match: 'a*', lr_ratio: 0.5}, {match: 'b*', lr_ratio: 2.0}]")
    plan = make_plan(job, parameters=hostile)
    assert "\x1b" not in rendered(plan_text(plan, with_curve=True))
    refused = Refused(workers=2, rule=None, problem="\x1b[31m[red]", remedy="\u202e")
    text = rendered(plans_table([plan, refused]))
    assert "Refused 2 workers: \\x1b[31m[red] \\u202e\n" in text


# Several plans


def test_a_refusal_is_a_row_and_its_reason_is_shown_once(digits: Digits, golden: Golden) -> None:
    plans = [make_plan(digits(f"scale.rule={rule}"), size) for rule in ("linear", "sqrt") for size in (1, 2)]
    why = {"problem": "scale.rule = adam_sde scales betas.", "remedy": "It is for adam."}
    refused = [Refused(workers=size, rule="adam_sde", **why) for size in (1, 2)]
    golden("plans-rules.txt", rendered(plans_table([*plans, *refused], with_curve=True)))


def test_more_than_four_plans_have_no_curves(digits: Digits) -> None:
    plans = [make_plan(digits(), size) for size in (1, 2, 3, 4, 5)]
    assert "Learning rate" in rendered(plans_table(plans[:4], with_curve=True))
    assert "Learning rate" not in rendered(plans_table(plans, with_curve=True))


@pytest.mark.parametrize(
    ("cases", "text"),
    [
        ([(1, None)], "1 worker"),
        ([(1, None), (2, None)], "1, 2 workers"),
        ([(1, "sqrt")], "sqrt on 1 worker"),
        ([(1, "sqrt"), (1, "none")], "sqrt, none on 1 worker"),
        ([(None, "sqrt")], "sqrt"),  # refused before its workers were read
        ([(2, None), (2, None)], "2 workers"),  # asked for twice
    ],
)
def test_combinations_as_text(cases: list[tuple[int | None, str | None]], text: str) -> None:
    assert among(cases) == text


# Curves


def chart(*curves: list[tuple[float, float]], **settings: float) -> CurveChart:
    named = [Curve(label=f"curve {index}", points=points) for index, points in enumerate(curves)]
    return CurveChart(title="Learning rate", curves=named, low=settings.get("low", 0.0))


def test_without_unicode_curves_are_letters(digits: Digits, golden: Golden) -> None:
    raw = BytesIO()
    console = Console(file=TextIOWrapper(raw, encoding="ascii"), width=80, highlight=False, color_system=None)
    console.print(plans_table([make_plan(digits(), size) for size in (1, 2)], with_curve=True))
    console.file.flush()
    lines = raw.getvalue().decode("ascii").splitlines()
    golden("plans-ascii.txt", "".join(f"{line.rstrip()}\n" for line in lines))


def test_curves_have_colours_on_a_terminal_only(digits: Digits) -> None:
    shown = plan_text(make_plan(digits()), with_curve=True)
    assert "\x1b[" not in rendered(shown)
    console = Console(file=StringIO(), width=80, force_terminal=True, color_system="256")
    with console.capture() as captured:
        console.print(shown)
    assert "\x1b[38;5;33m" in captured.get()


@pytest.mark.parametrize(("width", "widest"), [(200, 100), (100, 100), (60, 60), (40, 40)])
def test_a_chart_is_as_wide_as_the_terminal_up_to_100_columns(width: int, widest: int) -> None:
    lines = rendered(chart([(0.0, 0.0), (15.0, 1.0)]), width=width).splitlines()
    assert max(map(len, lines)) == widest


def test_a_narrow_console_or_a_flat_curve_has_no_chart() -> None:
    assert rendered(chart([(0.0, 0.0), (15.0, 1.0)]), width=39) == "\n"
    assert rendered(chart([(0.0, 0.0), (15.0, 0.0)])) == "\n"


@given(
    st.floats(1e-250, 1e250),
    st.floats(1.0, 1e15),
    st.lists(st.floats(0.0, 1.0), min_size=2, max_size=20),
    st.integers(40, 120),
)
def test_any_curve_can_be_drawn(peak: float, end: float, shares: list[float], width: int) -> None:
    shares = [*shares, 1.0]
    points = [(end * index / (len(shares) - 1), peak * share) for index, share in enumerate(shares)]
    lines = rendered(chart(points), width=width).splitlines()
    assert 13 <= len(lines) <= 16
    assert max(map(len, lines)) <= min(width, 100)


@given(st.floats(1e-250, 1e250), st.floats(0.0, 0.999))
def test_round_numbers_hold_the_values_and_waste_little(high: float, share: float) -> None:
    low = high * share
    found = axis(low, high, (3, 4, 5))
    assert found.low <= low * (1 + 1e-6) + 1e-300
    assert found.high >= high * (1 - 1e-6)
    assert found.high - found.low <= 3.5 * (high - low)
    texts = found.texts()
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.0, 0.16, "0 0.04 0.08 0.12 0.16"),
        (0.0, 1.0, "0 0.2 0.4 0.6 0.8 1.0"),
        (0.0, 3.2, "0 0.8 1.6 2.4 3.2"),
        (0.0, 0.0001, "0 0.2e-04 0.4e-04 0.6e-04 0.8e-04 1.0e-04"),
        (0.0, 4.8e-05, "0 1e-05 2e-05 3e-05 4e-05 5e-05"),
        (0.0, 250000.0, "0 0.5e+05 1.0e+05 1.5e+05 2.0e+05 2.5e+05"),
        (0.85, 0.95, "0.850 0.875 0.900 0.925 0.950"),
    ],
)
def test_round_numbers_as_people_read_them(low: float, high: float, texts: str) -> None:
    assert axis(low, high, (3, 4, 5)).texts() == texts.split()


def test_an_axis_ends_where_it_says() -> None:
    assert Axis(low=0.2, step=0.2, intervals=4).high == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("epochs", "last"),
    [
        ("2", "0 1 2"),
        ("7", "0 1 2 3 4 5 6 7"),
        ("90", "0 10 20 30 40 50 60 70 80 90"),
        ("1", "0 200 400 600 800 1,000 1,200 1,400"),
    ],
)
def test_the_training_is_counted_in_epochs_or_where_it_is_short_in_samples(
    digits: Digits, epochs: str, last: str
) -> None:
    plan = make_plan(digits(f"train.epochs={epochs}", "schedule.warmup={samples: 0}"))
    text = rendered(plan_text(plan, with_curve=True))
    assert f"Learning rate, over {'samples' if epochs == '1' else 'epochs'}\n" in text
    below = next(line for line in text.split("└")[1].splitlines()[1:])
    assert " ".join(below.split()) == last


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9375, "0.9375"),
        (0.99987654, "0.99987654"),  # a job gave it
        (1.2345678e-8, "1.2345678e-08"),
        (0.9960000000000001, "0.996"),
        (1_000_000, "1000000"),
        (1 - 0.0001 * 2**0.5, "0.999859"),  # a rule derives it
        (2.5e-9 / 2**0.5, "1.76777e-09"),
        (0, "0"),
        (False, "false"),
        (None, "null"),
    ],
)
def test_options_as_a_job_file_has_them(value: object, text: str) -> None:
    assert option(value) == text
