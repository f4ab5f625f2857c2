"""Every error text whole: problem = value, then what to type."""

import copy
import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scaler.core.optimizers import NAMED_OPTIMIZERS
from scaler.core.rules import RULES
from scaler.errors import JobFileError
from scaler.job import Job, apply_overrides, dump_job, load_job, parse_job, read_job
from scaler.job.load import masked_keys
from scaler.job.reading import MAX_JOB_FILE_BYTES

VALID: dict[str, Any] = {
    "name": "tiny",
    "recipe": "recipe:build",
    "reference": {"global_batch_size": 4, "lr": 0.1, "optimizer": {"name": "sgd", "momentum": 0.9}},
    "scale": {"num_workers": 2, "per_worker_batch_size": 8, "rule": "linear"},
    "schedule": {"name": "cosine", "warmup": {"epochs": 1}},
    "train": {"epochs": 2, "num_samples": 100},
}
IS_YAML = "\n  The file is YAML; indent with spaces."
MUST, NOR = "must be keys and values", "nor keys and values"
TWICE = "\n  Remove one of the two."
STAR = '\n  Quote text that begins with *, such as "*.bias".'
TAG = "\n  Write the value alone; quote text that begins with !."
# A name in another spelling, or that others use for it.
MEANT = [
    ("scale.rule=Linear", f'JOB: scale.rule = Linear is not one of {", ".join(RULES)}.\n  Did you mean "linear"?'),
    ("train.precision=BF16", 'JOB: train.precision = BF16 is not one of fp32, bf16, fp16.\n  Did you mean "bf16"?'),
    (
        "schedule.name=CosineAnnealingLR",
        "JOB: schedule.name = CosineAnnealingLR is not one of constant, step, multi_step, exponential, linear, "
        "polynomial, cosine, cosine_restarts, cyclical, one_cycle, wsd, inverse_sqrt.\n"
        '  Did you mean "cosine"?',
    ),
    (
        "reference.optimizer={name: sgd, momentun: 0.9}",
        'JOB: reference.optimizer has the key "momentun", which sgd does not take.\n'
        '  Did you mean "momentum"? It takes momentum, dampening, weight_decay, nesterov.',
    ),
    (
        "reference.optimizer={name: sgd, learning_rate: 0.9}",
        "JOB: reference.optimizer has the key learning_rate.\n"
        '  Did you mean "lr"? The learning rate is a key of its own: reference.lr.',
    ),
    (
        "reference.learning_rate=0.1",
        'JOB: unknown key "learning_rate" in reference.\n'
        '  Did you mean "lr"? Known keys: global_batch_size, lr, optimizer, optimizers, warmup, total_samples, '
        "total_tokens, epochs, samples_per_s.",
    ),
    *(
        (
            f"reference.optimizer.name={written}",
            f"JOB: reference.optimizer has the name {written}, which is not an optimizer.\n"
            f'  Did you mean "{meant}"? Use {", ".join(NAMED_OPTIMIZERS)}, '
            "or an import path such as torch.optim:NAdam.",
        )
        for written, meant in (
            ("SGD", "sgd"),
            ("adamW", "adamw"),
            ("NAdam", "torch.optim:NAdam"),
            ("torch.optim.Adam", "adam"),
        )
    ),
    ("train.num_samples=2e1", "JOB: train.num_samples = 20.0 is not written as a whole number.\n  Write 20."),
    ("train.seed='3'", 'JOB: train.seed = "3" is text, not a whole number.\n  Write 3, without quotes.'),
    (
        "train.num_samples=1_000",
        'JOB: train.num_samples = "1_000" is text, not a whole number.\n  Write 1000, without quotes.',
    ),
    ("reference.lr='0.1'", 'JOB: reference.lr = "0.1" is text, not a number.\n  Write 0.1, without quotes.'),
]
# A value where keys and values are wanted: what it may stand for is offered.
MAPPINGS = [
    (f"{override}={written}", f"JOB: {key or override} = {shown} {why}.\n  Write {offer}.")
    for override, key, written, shown, why, offer in [
        ("schedule.warmup", "", "500", "500", MUST, "warmup: {epochs: 500}, {steps: 500} or {samples: 500}"),
        ("schedule.warmup", "", "0.05", "0.05", MUST, "warmup: {epochs: 0.05} or {fraction: 0.05}"),
        ("schedule.warmup", "", "500 steps", "500 steps", f"is neither auto {NOR}", "warmup: {steps: 500}"),
        ("schedule.warmup", "", "5%", "5%", f"is neither auto {NOR}", "warmup: {fraction: 0.05}"),
        ("train.eval_every", "", "100", "100", MUST, "eval_every: {epochs: 100}, {steps: 100} or {samples: 100}"),
        ("train", "", "15", "15", MUST, "train: {epochs: 15}, {steps: 15} or {samples: 15}"),
        ("train.ema", "", "0.99", "0.99", MUST, "ema: {decay: 0.99}"),
        ("checkpoint", "", "3", "3", MUST, "checkpoint: {keep: 3}"),
        ("checkpoint.every", "", "60 s", "60 s", MUST, "every: {seconds: 60}"),
        ("checkpoint.best", "", "accuracy", "accuracy", MUST, "best: {metric: accuracy}"),
        ("scale.rewarmup", "", "50", "50", MUST, "rewarmup: {epochs: 50}, {steps: 50} or {samples: 50}"),
        ("scale.co_scale", "", "true", "true", MUST, "co_scale: {weight_decay: true}, {ema: true} or {momentum: true}"),
        ("schedule", "", "StepLR", "StepLR", MUST, "schedule: {name: step, every: ...}"),
        ("schedule", "schedule.every", "{name: step, every: 30}", "30", MUST,
         "every: {epochs: 30}, {steps: 30} or {samples: 30}"),
        ("schedule", "schedule.at", "{name: multi_step, at: 30}", "30", "is not a list",
         "at: [{epochs: 30}], [{steps: 30}] or [{samples: 30}]"),
        ("schedule", "schedule.timescale", "{name: inverse_sqrt, timescale: 0.5}", "0.5", MUST,
         "timescale: {epochs: 0.5} or {fraction: 0.5}"),
        ("reference.optimizer", "", "AdamW", "AdamW", MUST, "optimizer: {name: adamw}"),
        ("tracking.mlflow", "", "http://h:5000", "http://h:5000", MUST, "mlflow: {uri: 'http://h:5000'}"),
        ("groups", "groups.0.freeze", "[{match: a, freeze: 2}]", "2", f"is neither true {NOR}",
         "freeze: {epochs: 2}, {steps: 2} or {samples: 2}"),
        ("layer_decay", "layer_decay.layers", "{factor: 0.8, layers: 'a.*'}", "a.*", "is not a list", "layers: [a.*]"),
    ]
]  # fmt: skip
JOB_KEYS = (
    "name, recipe, recipe_args, reference, scale, groups, layer_decay, schedule, train, resources, runtime_env, "
    "checkpoint, failures, tracking, storage."
)
TRAIN_KEYS = (
    "epochs, steps, samples, tokens, unit, tokens_per_sample, sequence_lengths, num_samples, "
    "stop_after, last_batch, seed, strategy, fsdp, precision, tf32, "
    "compile, activation_checkpointing, channels_last, pin_memory, clip_grad_norm, ema, noise_scale_every, "
    "data_workers, check_data, eval_every."
)


def load_bytes(folder: Path, content: str | bytes, *overrides: str) -> Job:
    path = folder / "job.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_job(path, overrides=overrides)


def refusal(folder: Path, content: str | bytes, *overrides: str) -> str:
    """The text of the error, with the file called JOB."""
    with pytest.raises(JobFileError) as caught:
        load_bytes(folder, content, *overrides)
    return str(caught.value).replace(str(folder / "job.yaml"), "JOB")


@pytest.mark.parametrize(
    ("override", "text"),
    [
        (  # unknown key, with the nearest one
            "schedule.warmpu=1",
            'JOB: unknown key "warmpu" in schedule.\n'
            '  Did you mean "warmup"? Known keys: name, warmup, plateau, final_fraction.',
        ),
        (  # unknown key that is near nothing
            "failures.zzz=1",
            'JOB: unknown key "zzz" in failures.\n  Known keys: max_restarts, hang_timeout_s, divergence.',
        ),
        (  # unknown key at the top
            "trian={epochs: 1}",
            f'JOB: unknown key "trian".\n  Did you mean "train"? Known keys: {JOB_KEYS}',
        ),
        (  # unknown key below a choice of two kinds of value
            "schedule.warmup.epoch=1",
            'JOB: unknown key "epoch" in schedule.warmup.\n'
            '  Did you mean "epochs"? Known keys: epochs, steps, samples, tokens, fraction, start, shape.',
        ),
        (  # one level deeper
            "checkpoint={every: {minutes: 1}}",
            'JOB: unknown key "minutes" in checkpoint.every.\n  Known keys: epochs, steps, samples, tokens, seconds.',
        ),
        (  # a whole number where text is wanted
            "name=3",
            (
                "JOB: name = 3 is not text.\n"
                "  name: Name of the job, of letters, digits, '.', '_' and '-'. Run ids begin with it."
            ),
        ),
        (  # text where a whole number is wanted
            "scale.per_worker_batch_size=many",
            "JOB: scale.per_worker_batch_size = many is neither a whole number nor auto.\n"
            "  scale.per_worker_batch_size: Samples in one forward/backward on one worker; with "
            "global_batch_size, the most. auto (only with global_batch_size): the worker's whole share of the "
            "batch, halved when memory runs out.",
        ),
        (  # a fraction is not rounded
            "train.seed=1.5",
            (
                "JOB: train.seed = 1.5 is not a whole number.\n"
                "  train.seed: Seed of the initial weights, the data order and dropout."
            ),
        ),
        (  # true is not 1
            "train.seed=true",
            (
                "JOB: train.seed = true is not a whole number.\n"
                "  train.seed: Seed of the initial weights, the data order and dropout."
            ),
        ),
        (  # YAML 1.2: yes is text
            "reference.lr=yes",
            (
                'JOB: reference.lr = "yes" is not a number.\n'
                "  reference.lr: Learning rate that the reference was tuned with."
            ),
        ),
        (  # nothing where a number is needed
            "reference.lr=",
            (
                "JOB: reference.lr = null is not a number.\n"
                "  reference.lr: Learning rate that the reference was tuned with."
            ),
        ),
        (
            "reference.lr=.inf",
            (
                "JOB: reference.lr = inf is not a finite number.\n"
                "  reference.lr: Learning rate that the reference was tuned with."
            ),
        ),
        (  # a number that no float can hold
            "reference.lr=1e400",
            (
                "JOB: reference.lr = inf is not a finite number.\n"
                "  reference.lr: Learning rate that the reference was tuned with."
            ),
        ),
        (  # out of range: open end
            "reference.lr=0",
            ("JOB: reference.lr = 0 must be > 0.\n  reference.lr: Learning rate that the reference was tuned with."),
        ),
        (  # closed end
            "scale.num_workers=0",
            "JOB: scale.num_workers = 0 must be >= 1.\n"
            "  scale.num_workers: Number of workers, >= 1; {min, max} makes the job elastic.",
        ),
        (  # upper end
            "schedule.final_fraction=1.01",
            "JOB: schedule.final_fraction = 1.01 must be <= 1.\n"
            "  schedule.final_fraction: Share of the peak at the end of training.",
        ),
        (  # a word that is not one of the words, near one
            "scale.rule=lineal",
            "JOB: scale.rule = lineal is not one of auto, linear, sqrt, power, adam_sde, gain, adascale, legw, none.\n"
            '  Did you mean "linear"?',
        ),
        (  # near none
            "train.precision=double",
            "JOB: train.precision = double is not one of fp32, bf16, fp16.\n"
            "  train.precision: Precision of forward and backward; weights and optimizer are fp32. fp16: the loss is "
            "scaled, and a step whose gradient overflows is skipped. bf16: not every GPU has it.",
        ),
        (
            "schedule.warmup=none",
            "JOB: schedule.warmup = none is not one of auto.\n"
            "  schedule.warmup: Climb from the reference's learning rate to the peak. The warmup that the "
            "reference was tuned with is reference.warmup. auto: 5/90 of the training if the learning rate is "
            "scaled up (in an elastic job, at any number of workers) and the shape does not climb itself; "
            "otherwise none.",
        ),
        (
            "schedule.warmup={epochs: 1, start: bass}",
            'JOB: schedule.warmup.start = bass is not one of base.\n  Did you mean "base"?',
        ),
        (  # a value where a section is wanted
            "scale=3",
            "JOB: scale = 3 must be keys and values.\n"
            "  Write scale: {per_worker_batch_size: 3} or {global_batch_size: 3}.",
        ),
        (
            "reference.optimizer=sgd",
            ("JOB: reference.optimizer = sgd must be keys and values.\n  Write optimizer: {name: sgd}."),
        ),
        *MAPPINGS,
        *MEANT,
        (  # a list where a section is wanted
            "train.eval_every=[1]",
            "JOB: train.eval_every = [1] must be keys and values.\n"
            "  train.eval_every: How often to evaluate; always at the end too. A step counts as a whole global "
            "batch.",
        ),
        (
            "train.steps=3",
            "JOB: train has epochs, steps: more than one unit.\n"
            "  Give exactly one of epochs, steps, samples, tokens, such as {epochs: 1}.",
        ),
        (
            "train.eval_every={}",
            "JOB: train.eval_every has no unit.\n"
            "  Give exactly one of epochs, steps, samples, tokens, such as {epochs: 1}.",
        ),
        (
            "schedule.warmup={epochs: 1, fraction: 0.1}",
            "JOB: schedule.warmup has epochs, fraction: more than one unit.\n"
            "  Give exactly one of epochs, steps, samples, tokens, fraction, such as {epochs: 1}.",
        ),
        (
            "scale.per_worker_batch_size=null",
            "JOB: scale has neither per_worker_batch_size nor global_batch_size.\n"
            "  Give per_worker_batch_size for a batch that grows with the workers, or global_batch_size for a "
            "fixed one.",
        ),
        (
            "scale.num_workers={min: 3, max: 2}",
            ("JOB: scale.num_workers has min 3 above max 2.\n  Write {min: 2, max: 3}."),
        ),
        (
            "scale.num_workers={min: 1}",
            (
                'JOB: the key "max" is missing in scale.num_workers.\n'
                "  scale.num_workers.max: Most workers to train with."
            ),
        ),
        (
            "reference.optimizer.name=Adam",
            "JOB: reference.optimizer has the name Adam, which is not an optimizer.\n"
            '  Did you mean "adam"? '
            "Use sgd, adam, adamw, rmsprop, muon, lars, lamb, lion, prodigy, schedulefree_sgd, schedulefree_adamw, "
            "or an import path such as torch.optim:NAdam.",
        ),
        (
            "reference.optimizer.lr=1",
            ("JOB: reference.optimizer has the key lr.\n  The learning rate is a key of its own: reference.lr."),
        ),
        (
            "reference.optimizer.betas=[0.9, 0.99]",
            'JOB: reference.optimizer has the key "betas", which sgd does not take.\n'
            "  It takes momentum, dampening, weight_decay, nesterov.",
        ),
        (
            "name=a b",
            "JOB: name = 'a b' cannot be the name of a run.\n"
            "  Use 1 to 100 letters, digits, '.', '_' and '-'; a letter, digit or '_' first.",
        ),
        (  # would leave the storage
            "name=../up",
            "JOB: name = '../up' cannot be the name of a run.\n"
            "  Use 1 to 100 letters, digits, '.', '_' and '-'; a letter, digit or '_' first.",
        ),
        (
            "reference.optimizer.momentum=.nan",
            "JOB: reference.optimizer has momentum = nan, which is not a finite number.\n  Write a number.",
        ),
        (
            "recipe=recipe.py",
            "JOB: recipe = 'recipe.py' is neither module:function nor file.py:function.\n"
            "  For build() in recipe.py next to the job: recipe:build; in another folder: src/pkg/train.py:build.",
        ),
        (  # a key that looks like one of our own marks
            "<x=1",
            f'JOB: unknown key "<x".\n  Known keys: {JOB_KEYS}',
        ),
        (
            "train.<x=1",
            f'JOB: unknown key "<x" in train.\n  Known keys: {TRAIN_KEYS}',
        ),
        (  # schedules: a section that comes in kinds, by its name
            "schedule.name=cosin",
            "JOB: schedule.name = cosin is not one of constant, step, multi_step, exponential, linear, polynomial, "
            'cosine, cosine_restarts, cyclical, one_cycle, wsd, inverse_sqrt.\n  Did you mean "cosine"?',
        ),
        (
            "schedule.name=[cosine]",
            "JOB: schedule.name = ['cosine'] is not one of constant, step, multi_step, exponential, linear, "
            "polynomial, cosine, cosine_restarts, cyclical, one_cycle, wsd, inverse_sqrt.\n"
            '  Did you mean "cosine"?',
        ),
        (
            "schedule=cosine",
            ("JOB: schedule = cosine must be keys and values.\n  Write schedule: {name: cosine}."),
        ),
        (
            "schedule=null",
            (
                "JOB: schedule = null must be keys and values.\n"
                "  schedule: Learning rate over the training, as a share of the peak."
            ),
        ),
        (  # a key of another kind
            "schedule={name: constant, final_fraction: 0.1}",
            'JOB: unknown key "final_fraction" in schedule.\n  Known keys: name, warmup, plateau.',
        ),
        (  # what a kind needs
            "schedule={name: step}",
            ('JOB: the key "every" is missing in schedule.\n  schedule.every: Interval between falls.'),
        ),
        (
            "schedule={name: exponential}",
            (
                'JOB: the key "decay" is missing in schedule.\n'
                "  schedule.decay: The learning rate is multiplied by this over each interval."
            ),
        ),
        (  # a list of sections
            "schedule={name: multi_step, at: []}",
            "JOB: schedule.at = [] is too short.\n"
            "  schedule.at: Points at which the learning rate falls, in ascending order.",
        ),
        (
            "schedule={name: multi_step, at: {epochs: 30}}",
            "JOB: schedule.at = {'epochs': 30} is not a list.\n  Write at: [{epochs: 30}].",
        ),
        (
            "schedule={name: multi_step, at: [{epochs: 30}, 60]}",
            ("JOB: schedule.at.1 = 60 must be keys and values.\n  Write {epochs: 60}, {steps: 60} or {samples: 60}."),
        ),
        (
            "schedule={name: multi_step, at: [{epochs: 30}, {epoch: 60}]}",
            'JOB: unknown key "epoch" in schedule.at.1.\n'
            '  Did you mean "epochs"? Known keys: epochs, steps, samples, tokens, fraction.',
        ),
        (
            "schedule={name: multi_step, at: [{epochs: 30, steps: 1}]}",
            "JOB: schedule.at.0 has epochs, steps: more than one unit.\n"
            "  Give exactly one of epochs, steps, samples, tokens, fraction, such as {epochs: 1}.",
        ),
        (
            "schedule={name: step, every: {fraction: 0}}",
            (
                "JOB: schedule.every.fraction = 0 must be > 0.\n"
                "  schedule.every.fraction: Share of the whole training, in (0, 1]."
            ),
        ),
        (
            "schedule={name: one_cycle, low_momentum: 0.85}",
            (
                "JOB: schedule has only one of low_momentum and high_momentum.\n"
                "  Give low_momentum and high_momentum, or neither."
            ),
        ),
        (
            "schedule={name: cyclical, climb: {epochs: 1}, low: 0.1, mode: triangle}",
            "JOB: schedule.mode = triangle is not one of triangular, triangular2, exp_range.\n"
            '  Did you mean "triangular"?',
        ),
        (
            "schedule.plateau={metric: ''}",
            'JOB: schedule.plateau.metric = "" is too short.\n'
            "  schedule.plateau.metric: Name of a value that the evaluation returns.",
        ),
        (
            "schedule.plateau={patiences: 3}",
            'JOB: unknown key "patiences" in schedule.plateau.\n  Did you mean "patience"? Known keys: metric, mode, '
            "factor, patience, threshold, threshold_mode, cooldown, min_factor.",
        ),
        (
            "schedule.warmup.shape=sine",
            'JOB: schedule.warmup.shape = sine is not one of linear, constant, cosine.\n  Did you mean "cosine"?',
        ),
        (  # the rule's own keys
            "scale.rule=power",
            "JOB: scale has rule: power and no exponent.\n  Give exponent: lr_ratio = batch_ratio ** exponent.",
        ),
        (
            "scale.exponent=0.5",
            "JOB: scale has exponent = 0.5, which rule: linear does not take.\n  Use rule: power.",
        ),
        (
            "scale.rule=gain",
            "JOB: scale has rule: gain and no noise_scale.\n  Give noise_scale: the gradient noise scale, in samples.",
        ),
        (
            "scale.noise_scale=100",
            "JOB: scale has noise_scale = 100, which rule: linear does not take.\n  Use rule: gain.",
        ),
        (
            "scale.betas=power",
            "JOB: scale has betas: power, which rule: linear does not take.\n  Use rule: adam_sde.",
        ),
        (
            "scale.co_scale={ema: true}",
            ("JOB: scale.co_scale.ema = true, and train.ema is missing.\n  Give train.ema."),
        ),
        (
            "scale.co_scale={weight_decay: 1}",
            "JOB: scale.co_scale.weight_decay = 1 is not true or false.\n"
            "  scale.co_scale.weight_decay: Multiply weight decay by batch_ratio / lr_ratio, which holds its "
            "timescale in samples (for SGD, AdamW and other optimizers with decoupled weight decay).",
        ),
        (  # a batch that grows
            "scale.batch_schedule={every: {epochs: 1}}",
            "JOB: scale.batch_schedule.name = null is not one of points, doubling, noise_scale, instead_of_decay.\n"
            "  scale.batch_schedule: A global batch that changes during training; the learning rate follows by "
            "the rule. null: constant.",
        ),
        (
            "scale.batch_schedule=doubling",
            "JOB: scale.batch_schedule = doubling must be keys and values.\n"
            "  Write batch_schedule: {name: doubling, every: ..., max_global_batch_size: ...}.",
        ),
        (
            "scale.batch_schedule={name: instead_of_decay, max_global_batch_size: 64, growth: 1}",
            "JOB: scale.batch_schedule.growth = 1 must be > 1.\n"
            "  scale.batch_schedule.growth: Least factor from one batch to the next. Between two changes the "
            "learning rate falls with the schedule.",
        ),
        (
            "scale.batch_schedule={name: doubling, every: {epochs: 1}}",
            'JOB: the key "max_global_batch_size" is missing in scale.batch_schedule.\n'
            "  scale.batch_schedule.max_global_batch_size: Largest batch, in samples; it stops growing there.",
        ),
        (
            "scale.batch_schedule={name: points, points: [{at: {epochs: 1}}]}",
            'JOB: the key "factor" is missing in scale.batch_schedule.points.0.\n'
            "  scale.batch_schedule.points.factor: Size of the batch, divided by its size at the start of "
            "training.",
        ),
        (  # groups
            "groups=[{match: '*'}]",
            "JOB: groups.0 matches * and changes nothing.\n  Give lr_ratio, weight_decay or freeze.",
        ),
        (
            "groups=[{match: '*', freeze: true}, {match: '', freeze: true}]",
            'JOB: groups.1.match = "" is too short.\n'
            '  groups.match: A pattern for names of parameters in the model, with * and ?, such as "backbone.*".',
        ),
        (
            "groups=[{match: '*', freeze: false}]",
            "JOB: groups.0.freeze = false is not one of true.\n"
            "  groups.freeze: true: never trained; a point of training such as {epochs: 2}: not trained before "
            "it. The running statistics of frozen BatchNorm layers do not change either. null: trained.",
        ),
        (
            "groups=[{match: '*', freeze: {epochs: 0}}]",
            "JOB: groups.0.freeze.epochs = 0 must be > 0.\n"
            "  groups.freeze.epochs: Passes over the training set; fractions are allowed.",
        ),
        (
            "groups=[backbone]",
            "JOB: groups.0 = backbone must be keys and values.\n"
            "  groups: Parameters with a learning rate, weight decay or freezing of their own. recipe: the "
            "recipe has the list.",
        ),
        (
            "groups=recipes",
            'JOB: groups = recipes is not one of recipe.\n  Did you mean "recipe"?',
        ),
        (
            "groups={match: '*', freeze: true}",
            "JOB: groups = {'match': '*', 'freeze': True} is not a list.\n"
            "  Write groups: [{match: '*', freeze: true}].",
        ),
        (
            "layer_decay={factor: 0.8, layers: ['*']}",
            "JOB: layer_decay.layers = ['*'] is too short.\n"
            "  layer_decay.layers: Patterns for names of parameters, from the input to the output. {n} stands "
            'for a number, and each number is a layer, in order: ["embed.*", "blocks.{n}.*", "head.*"]. Every '
            "parameter must match a pattern.",
        ),
        (  # options of optimizers
            "reference.optimizer={name: adam, betas: 0.9}",
            "JOB: reference.optimizer has betas = 0.9, which is not 2 numbers.\n  Such as betas: [0.9, 0.999].",
        ),
        (
            "reference.optimizer={name: adam, betas: [0.9]}",
            "JOB: reference.optimizer has betas = [0.9], which is not 2 numbers.\n  Such as betas: [0.9, 0.999].",
        ),
        (
            "reference.optimizer={name: adam, betas: [.nan, 0.999]}",
            "JOB: reference.optimizer has betas = [nan, 0.999], which is not a finite number.\n  Write a number.",
        ),
        (
            "reference.optimizer.momentum=high",
            "JOB: reference.optimizer has momentum = high, which is not a number.\n  Such as momentum: 0.",
        ),
        (
            "reference.optimizer.nesterov=1",
            "JOB: reference.optimizer has nesterov = 1, which is not true or false.\n  Such as nesterov: false.",
        ),
        (
            "reference.optimizer.weight_decay=null",
            "JOB: reference.optimizer has weight_decay = None, which is not a number.\n  Such as weight_decay: 0.",
        ),
        (
            "reference.optimizer={name: adam, betas: [0.9, 1]}",
            "JOB: reference.optimizer has betas = [0.9, 1], which must be >= 0 and < 1.\n"
            "  Such as betas: [0.9, 0.999].",
        ),
        (
            "reference.optimizer={name: lion, betas: [-0.1, 0.99]}",
            "JOB: reference.optimizer has betas = [-0.1, 0.99], which must be >= 0 and < 1.\n"
            "  Such as betas: [0.9, 0.99].",
        ),
        (
            "reference.optimizer={name: schedulefree_adamw, betas: [0, 0.99]}",
            "JOB: reference.optimizer has betas = [0, 0.99], which must be > 0 and < 1.\n"
            "  Such as betas: [0.9, 0.999].",
        ),
        (
            "reference.optimizer={name: schedulefree_sgd, momentum: 0}",
            "JOB: reference.optimizer has momentum = 0, which must be > 0 and < 1.\n  Such as momentum: 0.9.",
        ),
        (
            "reference.optimizer={name: sgd, momentum: 1.0}",
            "JOB: reference.optimizer has momentum = 1.0, which must be >= 0 and < 1.\n  Such as momentum: 0.9.",
        ),
        (
            "reference.optimizer={name: rmsprop, alpha: 1.5}",
            "JOB: reference.optimizer has alpha = 1.5, which must be >= 0 and < 1.\n  Such as alpha: 0.99.",
        ),
        (
            "reference.optimizer={name: adamw, eps: -1.0e-8}",
            "JOB: reference.optimizer has eps = -1e-08, which must be >= 0.\n  Such as eps: 1e-08.",
        ),
        (
            "reference.optimizer={name: lamb, weight_decay: -0.1}",
            "JOB: reference.optimizer has weight_decay = -0.1, which must be >= 0.\n  Such as weight_decay: 0.",
        ),
        (
            "reference.optimizer={name: lars, trust_coefficient: -1}",
            "JOB: reference.optimizer has trust_coefficient = -1, which must be >= 0.\n"
            "  Such as trust_coefficient: 0.001.",
        ),
        (
            "reference.optimizer={name: sgd, nesterov: true}",
            "JOB: reference.optimizer has nesterov = true, which needs momentum > 0 and dampening 0.\n"
            "  Give momentum: 0.9 without dampening, or leave nesterov out.",
        ),
        (
            "reference.optimizer={name: sgd, nesterov: true, momentum: 0.9, dampening: 0.1}",
            "JOB: reference.optimizer has nesterov = true, which needs momentum > 0 and dampening 0.\n"
            "  Give momentum: 0.9 without dampening, or leave nesterov out.",
        ),
        (
            "train.ema={decay: 1}",
            "JOB: train.ema.decay = 1 must be < 1.\n"
            "  train.ema.decay: Share of the average that one step of the reference keeps.",
        ),
        (
            "tracking.mlflow={uri: mlruns}",
            "JOB: tracking.mlflow.uri = mlruns is neither a server nor a database, and MLflow no longer keeps "
            "runs in folders.\n"
            "  Use http://host:5000, or sqlite:///mlflow.db for a file.",
        ),
        (
            'tracking.mlflow={uri: "http://me:hunter2@host:5000"}',
            "JOB: tracking.mlflow.uri has a password in it, which would be written into the run's folder.\n"
            "  Leave it out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
        ),
        (
            "resources.gpus_per_worker=2",
            "JOB: resources.gpus_per_worker = 2 must be <= 1.\n"
            "  resources.gpus_per_worker: GPUs reserved: 1, or a fraction for workers that share a GPU; 0: train on "
            "the CPU. auto: 1 if the cluster has a GPU when the run starts, otherwise 0. On a cluster that starts its "
            "GPU nodes on demand, give 1.",
        ),
        (
            "resources={gpus_per_worker: 0, accelerator_type: A100}",
            "JOB: resources has accelerator_type: A100 and gpus_per_worker: 0.\n"
            "  Leave gpus_per_worker out, or give 1 or a fraction.",
        ),
        (
            "train.compile=inductor",
            'JOB: train.compile = "inductor" is not true or false.\n'
            "  train.compile: Compile the model with torch.compile when the start checks have passed. true: with the "
            "defaults below. What the loss calls besides model(...) is not compiled. The node needs a C++ compiler.",
        ),
        (
            "train.compile.mode=reduce-overhead",
            "JOB: train.compile.mode = reduce-overhead is not one of default, max-autotune-no-cudagraphs.\n"
            "  train.compile.mode: default: compiles in seconds to minutes; max-autotune-no-cudagraphs: also measures "
            "several kernels for each operation, which takes longer to compile.",
        ),
        (
            "train.activation_checkpointing=Auto",
            'JOB: train.activation_checkpointing = Auto is not one of auto.\n  Did you mean "auto"?',
        ),
        (
            "failures.divergence={then: go_on}",
            "JOB: failures.divergence.then = go_on is not one of stop, go_back.\n"
            "  failures.divergence.then: stop: end the run with a report; go_back: resume from the last "
            "checkpoint with a lower learning rate.",
        ),
    ],
)
def test_a_job_with_one_fault(tmp_path: Path, override: str, text: str) -> None:
    assert refusal(tmp_path, yaml.safe_dump(VALID), override) == text


@pytest.mark.parametrize(
    "optimizer",
    [
        "{name: adam, betas: [0, 0], eps: 0, weight_decay: 0}",  # the bounds themselves
        "{name: rmsprop, alpha: 0, momentum: 0}",
        "{name: sgd, momentum: 0.9, nesterov: true}",
        "{name: 'torch.optim:SGD', momentum: 2}",  # another's options are its own affair
    ],
)
def test_options_at_their_bounds_are_taken(tmp_path: Path, optimizer: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(VALID))
    wanted = yaml.safe_load(optimizer)
    found = load_job(path, overrides=[f"reference.optimizer={optimizer}"]).reference.optimizer
    assert {"name": found.name, **found.options} == wanted


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (  # steps of what length?
            ["scale.num_workers={min: 1, max: 2}", "train={steps: 10}"],
            "JOB: train.steps = 10 is not a fixed number of samples: steps grow and shrink with the workers.\n"
            "  Give train.epochs or train.samples.",
        ),
        (
            [
                "scale.batch_schedule={name: doubling, every: {epochs: 1}, max_global_batch_size: 64}",
                "train={steps: 9}",
            ],
            "JOB: train.steps = 9 is not a fixed number of samples: steps grow with scale.batch_schedule.\n"
            "  Give train.epochs or train.samples.",
        ),
        (
            ["scale.rule=adascale", "scale.batch_schedule={name: noise_scale, max_global_batch_size: 64}"],
            (
                "JOB: scale has rule: adascale and a batch_schedule.\n"
                "  Leave one of them out: both follow the gradient noise."
            ),
        ),
        (  # adam_sde alone takes betas
            ["scale.rule=auto", "scale.betas=power"],
            "JOB: scale has betas: power, which rule: auto does not take.\n  Use rule: adam_sde.",
        ),
    ],
)
def test_keys_that_do_not_go_together(tmp_path: Path, overrides: list[str], text: str) -> None:
    assert refusal(tmp_path, yaml.safe_dump(VALID), *overrides) == text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", ("JOB: is empty.\n  scaler init DIR writes a job file that is ready to run.")),
        ("# a comment\n", ("JOB: is empty.\n  scaler init DIR writes a job file that is ready to run.")),
        ("[1, 2]", ("JOB: is a list, not keys and values.\n  scaler init DIR writes a job file that is ready to run.")),
        ("name", ("JOB: is a str, not keys and values.\n  scaler init DIR writes a job file that is ready to run.")),
        ("a: {b: [}", "JOB: line 1, column 9: expected the node content, but found '}'." + IS_YAML),
        (
            "a: b: c",
            "JOB: line 1, column 5: mapping values are not allowed here.\n"
            '  Quote text with ": " in it; indent with spaces.',
        ),
        ("a:\n\tb: 1", "JOB: line 2, column 1: found character '\\t' that cannot start any token." + IS_YAML),
        ("name: a\ntrain: {}\nname: b", 'JOB: line 3, column 1: the key "name" appears twice.' + TWICE),
        ("train: {seed: 1, seed: 2}", 'JOB: line 1, column 18: the key "seed" appears twice.' + TWICE),
        ("recipe_args: [{x: 1, x: 2}]", 'JOB: line 1, column 22: the key "x" appears twice.' + TWICE),
        ("1: 2", 'JOB: line 1, column 1: the key 1 is not text.\n  Quote it: "1": ...'),
        ("? [a]\n: 2", "JOB: line 1, column 3: the key ['a'] is not text.\n  A key is text, such as name: value."),
        ("a: &x 1\nb: *x", "JOB: line 2, column 4: aliases (*name) are not allowed." + STAR),
        (
            "groups: [{match: *.bias}]",
            "JOB: line 1, column 19: expected alphabetic or numeric character, but found '.'." + STAR,
        ),
        (
            "a: 1\n---\nb: 2",
            "JOB: line 2, column 1: but found another document.\n"
            "  A job file is one document: remove everything after ---.",
        ),
        ("a: !!python/object/apply:os.system [ls]", "JOB: line 1, column 4: tags (!name) are not allowed." + TAG),
        ("a: !!int x", "JOB: line 1, column 4: tags (!name) are not allowed." + TAG),
        ("!mine {a: 1}", "JOB: line 1, column 1: tags (!name) are not allowed." + TAG),
        ("[" * 2000, "JOB: is nested too deep.\n  A job file nests three levels."),
        ("a: " + "{a: " * 1000, "JOB: is nested too deep.\n  A job file nests three levels."),
        (
            bytes(range(256)),
            'JOB: is not YAML: unacceptable character #x0080: invalid start byte in "<byte string>", position 128.',
        ),
        (
            b"\x89PNG\r\n\x1a\n",
            'JOB: is not YAML: unacceptable character #x0089: invalid start byte in "<byte string>", position 0.',
        ),
        (
            b"\x00",
            "JOB: is not YAML: unacceptable character #x0000: special characters are not allowed "
            'in "<byte string>", position 0.',
        ),
        (
            "#" * (MAX_JOB_FILE_BYTES + 1),
            "JOB: larger than 100,000 bytes.\n  A job file is a page of YAML.",
        ),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_file_that_holds_no_job(tmp_path: Path, content: str | bytes, text: str) -> None:
    assert refusal(tmp_path, content) == text


def test_a_file_as_large_as_allowed_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = yaml.safe_dump(VALID)
    monkeypatch.setattr("scaler.job.reading.MAX_JOB_FILE_BYTES", len(content))
    assert load_bytes(tmp_path, content).name == "tiny"
    assert refusal(tmp_path, f"{content}#").startswith("JOB: larger than ")


def test_all_missing_keys_are_listed_at_once(tmp_path: Path) -> None:
    assert refusal(tmp_path, "name: a\ntrain: {epochs: 1}\nscale: {num_workers: 0}") == (
        "JOB: 2 problems.\n"
        '  the key "reference" is missing.\n'
        "    reference: Batch size, learning rate and optimizer that were tuned together.\n"
        "  scale.num_workers = 0 must be >= 1.\n"
        "    scale.num_workers: Number of workers, >= 1; {min, max} makes the job elastic."
    )


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: None, "cannot be read: No such file or directory."),
        (lambda path: path.mkdir(), "cannot be read: Is a directory."),
    ],
)
def test_a_path_that_is_no_file(tmp_path: Path, make: Callable[[Path], None], text: str) -> None:
    path = tmp_path / "job.yaml"
    make(path)
    with pytest.raises(JobFileError) as caught:
        load_job(path)
    assert str(caught.value) == f"{path}: {text}\n  scaler submit takes the path of a job file."


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("train.epochs", "--set train.epochs is not KEY=VALUE.\n  Such as --set train.epochs=3."),
        ("=1", "--set =1 is not KEY=VALUE.\n  Such as --set train.epochs=3."),
        ("train..seed=1", "--set train..seed=1 is not KEY=VALUE.\n  Such as --set train.epochs=3."),
        ("name.x=1", "--set name.x=1: name is tiny, which has no keys.\n  Set it as a whole."),
        (
            "train={seed: 1, seed: 2}",
            '--set train={seed: 1, seed: 2}: line 1, column 11: the key "seed" appears twice.' + TWICE,
        ),
        ("train={1: 2}", '--set train={1: 2}: line 1, column 2: the key 1 is not text.\n  Quote it: "1": ...'),
        ("train={", "--set train={: line 1, column 2: expected the node content, but found '<stream end>'." + IS_YAML),
        (
            "name=\x1b[31m",
            "--set name=\x1b[31m: is not YAML: unacceptable character #x001b: special characters are not allowed "
            'in "<unicode string>", position 0.',
        ),
    ],
)
def test_a_set_option_that_cannot_be_used(tmp_path: Path, override: str, text: str) -> None:
    assert refusal(tmp_path, yaml.safe_dump(VALID), override) == text


def test_a_section_that_was_set_to_nothing_takes_no_keys(tmp_path: Path) -> None:
    text = "--set train.epochs=1: train is null, which has no keys.\n  Set it as a whole."
    assert refusal(tmp_path, yaml.safe_dump(VALID), "train=", "train.epochs=1") == text


def test_the_last_of_several_overrides_wins_and_sections_are_made(tmp_path: Path) -> None:
    job = load_bytes(tmp_path, yaml.safe_dump(VALID), "train.seed=1", "train.seed=2", "resources.cpus_per_worker=0.5")
    assert job.train.seed == 2
    assert job.resources.cpus_per_worker == 0.5


def test_a_value_may_hold_an_equals_sign(tmp_path: Path) -> None:
    assert load_bytes(tmp_path, yaml.safe_dump(VALID), "recipe_args={query: 'a=b'}").recipe_args == {"query": "a=b"}


def test_overriding_leaves_the_values_alone() -> None:
    values = copy.deepcopy(VALID)
    apply_overrides(values, ["train.seed=1", "scale.rule=sqrt"])
    assert values == VALID


def test_a_number_of_workers_comes_after_every_override(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(VALID))
    job = load_job(path, overrides=["scale.num_workers={min: 1, max: 9}"], workers=3)
    assert job.scale.num_workers == 3


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-3", 0.001),  # YAML 1.1 reads text
        ("1E3", 1000.0),
        ("-1.5e+2", -150.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("12", 12),
        ("-7", -7),
        ("+7", 7),
        ("0", 0),
        ("010", 10),  # YAML 1.1 reads octal: 8
        ("0o17", 15),
        ("0x1F", 31),
        ("1:30", "1:30"),  # YAML 1.1 reads base 60: 90
        ("1_000", "1_000"),  # YAML 1.1 reads 1000
        ("0b11", "0b11"),  # YAML 1.1 reads 3
        ("1e", "1e"),
        ("1.2.3", "1.2.3"),
        ("no", "no"),  # YAML 1.1 reads false
        ("yes", "yes"),
        ("on", "on"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("=", "="),  # YAML 1.1 reads a default value
        ("2020-01-01", "2020-01-01"),  # YAML 1.1 reads a date
        ("'1'", "1"),
    ],
)
def test_scalars_are_read_as_yaml_1_2_reads_them(tmp_path: Path, written: str, value: object) -> None:
    (read,) = load_bytes(tmp_path, yaml.safe_dump(VALID), f"recipe_args={{x: {written}}}").recipe_args.values()
    assert (type(read), read) == (type(value), value)


def test_a_job_may_be_json(tmp_path: Path) -> None:
    assert load_bytes(tmp_path, json.dumps(VALID, indent=2)) == parse_job(VALID, source="here")


# Whatever the file holds, it is a job or a JobFileError.

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["auto", "base", "linear", "sgd", "a:b", "<word>", "<", "2020-01-01", "no"]),
)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.just("<x"), inner, max_size=3),
    max_leaves=6,
)


Key = str | int


def all_paths(values: dict[Any, Any] | list[Any], above: tuple[Key, ...] = ()) -> list[tuple[Key, ...]]:
    found: list[tuple[Key, ...]] = []
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        found.append((*above, key))
        if isinstance(value, dict | list):
            found += all_paths(value, (*above, key))
    return found


RICH = VALID | {
    "scale": {
        **VALID["scale"],
        "num_workers": {"min": 1, "max": 2},
        "rule": "power",
        "exponent": 0.6,
        "co_scale": {"weight_decay": True, "ema": True},
        "batch_schedule": {"name": "points", "points": [{"at": {"epochs": 1}, "factor": 2}]},
    },
    "groups": [{"match": "a.*", "lr_ratio": 0.1, "freeze": {"epochs": 1}}, {"match": "b", "freeze": True}],
    "layer_decay": {"factor": 0.8, "layers": ["a.{n}.*", "b.*"]},
    "schedule": {"name": "multi_step", "at": [{"epochs": 1}, {"fraction": 0.7}], "plateau": {"patience": 2}},
    "train": {**VALID["train"], "ema": {"decay": 0.99}},
}
FULL = [parse_job(values, source="here").model_dump(mode="json") for values in (VALID, RICH)]


@st.composite
def damaged_jobs(draw: st.DrawFn) -> str:
    """A valid job with a few of its values replaced, removed or joined by others."""
    values = copy.deepcopy(draw(st.sampled_from(FULL)))
    for path in draw(st.lists(st.sampled_from(all_paths(values)), min_size=1, max_size=3)):
        section: Any = values
        for key in path[:-1]:
            there = isinstance(section, dict) and key in section
            there = there or (isinstance(section, list) and isinstance(key, int) and key < len(section))
            section = section[key] if there else None
        if isinstance(section, list) and path[-1] in range(len(section)):
            section[path[-1]] = draw(trees)
        if not isinstance(section, dict):
            continue
        match draw(st.sampled_from(["replace", "remove", "join"])):
            case "replace":
                section[path[-1]] = draw(trees)
            case "remove":
                section.pop(path[-1], None)
            case "join":
                section[draw(st.text(max_size=6) | st.sampled_from(["<x", "steps", "lr"]))] = draw(trees)
    return yaml.safe_dump(values, allow_unicode=True)


TAGS = ["!!int", "!!float", "!!bool", "!!null", "!!str", "!!seq", "!!map", "!!set", "!!omap", "!!timestamp", "!x"]
scraps = st.lists(
    st.sampled_from(
        [
            *"\n\t {}[]:,-?#&*!|>'\"%@`",
            "a",
            "name",
            "train",
            "1",
            ": ",
            "- ",
            "<<",
            "=",
            "''",
            "[a]",
            "{a: b}",
            "\\ud800",
        ]
        + [f"{tag} " for tag in TAGS]
    ),
    max_size=12,
).map("".join)


@given(content=damaged_jobs() | scraps | st.text(string.printable, max_size=40) | st.binary(max_size=40))
def test_any_file_is_a_job_or_a_job_file_error(tmp_path_factory: pytest.TempPathFactory, content: str | bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    outcome: Job | str
    try:
        outcome = load_bytes(folder, raw)
    except JobFileError as error:
        outcome = str(error)
    assert isinstance(outcome, Job) or outcome.startswith(str(folder / "job.yaml"))


@pytest.mark.parametrize("key", ['"\\ud800"', '"\\0"', "<word>", "''"])
def test_a_key_that_no_job_has_is_shown_and_refused(tmp_path: Path, key: str) -> None:
    for content in (f"{key}: 1", f"train: {{{key}: 1}}", f"recipe_args: {{{key}: 1}}"):
        with pytest.raises(JobFileError):
            load_bytes(tmp_path, content)


# Secrets do not go into a run's folder.


def test_secrets_are_left_out_of_a_runs_copy_and_asked_for_again(tmp_path: Path) -> None:
    arguments = {
        "hidden": 128,
        "tokenizer": "bert",
        "max_tokens": 512,
        "api_key": "sk-12345",
        "store": {"url": "s3://me:hunter2@host/x", "password": 1234, "retries": [1, 2]},
        "mirrors": ["https://a/x", "https://u:pw@b/x"],
    }
    job = parse_job({**VALID, "recipe_args": arguments, "storage": "ftp://me:hunter2@host/runs"}, source="here")
    written = dump_job(job)
    for secret in ("sk-12345", "hunter2", "1234", "u:pw"):
        assert secret not in written
    again = read_job(written.encode(), source="here")  # a report reads it
    assert again.recipe_args == {
        **arguments,
        "api_key": "***",
        "store": {"url": "s3://me:***@host/x", "password": "***", "retries": [1, 2]},
        "mirrors": ["https://a/x", "https://u:***@b/x"],
    }
    assert again.storage == "ftp://me:***@host/runs"
    asked = [f"recipe_args.{key}" for key in ("api_key", "store.url", "store.password", "mirrors")]
    assert masked_keys(again) == asked
    assert masked_keys(job) == []
    assert refusal(tmp_path, written) == (
        f"JOB: {', '.join(asked)}, storage are masked.\n"
        "  A run's copy of its job has *** for secrets; give them again: --set recipe_args.api_key=..."
    )
    given = [f"recipe_args.{key}=x" for key in ("api_key", "store.url", "store.password", "mirrors")]
    assert load_bytes(tmp_path, written, *given, "storage=runs").recipe_args["api_key"] == "x"


def test_a_job_without_secrets_is_written_whole() -> None:
    job = parse_job({**VALID, "recipe_args": {"x": [{"y": None}, 1e-3, "no", True]}}, source="here")
    assert read_job(dump_job(job).encode(), source="here") == job
