"""The curves of a running run: the points that TensorBoard, MLflow and W&B get (``CURVES``).

The x axis is ``samples_seen``. Each of the first ``STRETCH_POINTS`` points stands for 1 step, each of the next
``STRETCH_POINTS`` for 2 steps, then for 4, and so on, so that a long run's curves stay small.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic, time

from scaler.metrics.events import AttemptStarted, Evaluated, Event, Recorded
from scaler.metrics.mean import Mean
from scaler.metrics.record import Record

CURVES = {
    "train/loss_mean": "training loss: mean over ranks and steps, weighted by the loss's weight",
    "train/lr": "learning rate that rank 0's optimizer used in the point's first step",
    "train/noise_scale": "gradient noise scale in samples: running average of estimates; only if measured",
    "train/samples_per_s": "speed of all workers: samples divided by the mean over ranks of the step time",
    "train/step_time_s": "seconds of an optimizer step: mean over ranks and steps",
    "train/NAME": "value NAME that a recipe or a loop of one's own recorded: mean by weight over workers and steps",
    "eval/NAME": "metric NAME over all of eval_data",
}
"""The curves, each with the meaning of one point, which stands for one or several steps."""

STRETCH_POINTS = 1000
STRETCH_S = 5.0  # after this time, a point is drawn even if it does not have all its steps
OPEN_STEPS = 10_000  # most steps that wait for a worker's record; if there are more, the oldest are not drawn


@dataclass(frozen=True, slots=True)
class Point:
    """Values to draw, by name. With ``forget``, it has none: all points from ``samples_seen`` on are obsolete."""

    samples_seen: int
    wall_time: float
    values: Mapping[str, float] = field(default_factory=dict)
    forget: bool = False
    attempt: int = 0


@dataclass(slots=True)
class _Step:
    """One optimizer step, summed over the workers whose record has arrived; or a stretch of complete steps."""

    samples_seen: int
    count: int = 0  # workers whose record has arrived; for a stretch, its steps
    steps: int = 1  # optimizer steps in it
    samples: int = 0
    loss: Mean = field(default_factory=Mean)
    time_s: float = 0.0  # sum over the workers; for a stretch, mean over ranks, summed over steps
    lr: float | None = None
    noise_scale: float | None = None


class Curves:
    """Turns records and events into points.

    A step is drawn when the records of all workers have arrived. A point with ``forget`` comes before work that is done
    again, after a crash or a return to a checkpoint.
    """

    def __init__(self) -> None:
        self._attempt: int | None = None
        self._world_size = 0
        self._steps: dict[tuple[int, int], _Step] = {}  # by attempt and samples_seen
        self._stretch: _Step | None = None
        self._stretch_began = 0.0
        self._drawn = 0
        self._points: list[Point] = []
        self._recorded: list[Recorded] = []  # of some workers, at one place; the others' have not arrived

    @property
    def attempt(self) -> int:
        """The attempt that is drawn; 0 before the first one starts."""
        return self._attempt or 0

    def add(self, records: Sequence[Record]) -> None:
        """Add records of one worker, in the order of its steps."""
        for record in records:
            if self._attempt is not None and record.attempt < self._attempt:
                continue
            key = (record.attempt, record.samples_seen)
            step = self._steps.get(key)
            if step is None:
                step = self._steps[key] = _Step(record.samples_seen, steps=record.steps)
                if len(self._steps) > OPEN_STEPS:
                    del self._steps[next(iter(self._steps))]
            step.count += 1
            step.samples += record.samples
            step.time_s += record.step_time_s
            step.loss.add(record.loss, record.loss_weight)
            if record.rank == 0:
                step.lr, step.noise_scale = record.lr, record.noise_scale
            if step.count == self._world_size and record.attempt == self._attempt:
                self._extend(self._steps.pop(key))

    def add_event(self, event: Event) -> None:
        """Add an event; only starts of attempts, evaluations and recorded values change the curves."""
        if isinstance(event, AttemptStarted):
            self._begin(event)
        elif isinstance(event, Evaluated):
            values = {f"eval/{name}": value for name, value in event.values.items() if value is not None}
            self._points.append(Point(event.samples_seen, event.time, values, attempt=self.attempt))
        elif isinstance(event, Recorded):
            self._add_recorded(event)

    def take(self, *, to_the_end: bool = False) -> list[Point]:
        """Return the points since the last call; with ``to_the_end``, also those that lack steps or workers."""
        if to_the_end:
            self._end_recorded()
        if self._stretch is not None and (to_the_end or monotonic() - self._stretch_began >= STRETCH_S):
            self._end_stretch()
        points, self._points = self._points, []
        return points

    def _add_recorded(self, event: Recorded) -> None:
        """Add a worker's recorded values; they are drawn when those of all workers have arrived, or newer ones."""
        if self._recorded and event.samples_seen != self._recorded[0].samples_seen:
            self._end_recorded()
        self._recorded.append(event)
        if len(self._recorded) == self._world_size:
            self._end_recorded()

    def _end_recorded(self) -> None:
        events, self._recorded = self._recorded, []
        means: dict[str, Mean] = {}
        for event in events:
            for name, value in event.values.items():
                means.setdefault(f"train/{name}", Mean()).add(value, event.weights[name])
        known = {name: mean.value for name, mean in means.items() if mean.value is not None}
        if known:
            self._points.append(Point(events[0].samples_seen, events[-1].time, known, attempt=self.attempt))

    def _begin(self, event: AttemptStarted) -> None:
        self._end_recorded()
        self._end_stretch()
        self._attempt, self._world_size = event.attempt, event.world_size
        if event.attempt > 0:
            # Not from the start itself: an evaluation of the weights that training continues from may stand there.
            self._points.append(Point(event.start_samples + 1, event.time, forget=True, attempt=self.attempt))
        early, self._steps = self._steps, {}
        for (attempt, samples_seen), step in early.items():  # other workers' records came before rank 0's event
            if attempt < event.attempt:
                continue
            if attempt == event.attempt and step.count == self._world_size:
                self._extend(step)
            else:
                self._steps[attempt, samples_seen] = step

    def _extend(self, step: _Step) -> None:
        """Add a complete step to the stretch, and end the stretch when it is full."""
        stretch = self._stretch
        if stretch is None:
            stretch = self._stretch = _Step(step.samples_seen, lr=step.lr)
            self._stretch_began = monotonic()
        stretch.count += step.steps
        stretch.samples += step.samples
        stretch.loss.add_sum(step.loss.total, step.loss.weight)
        stretch.time_s += step.time_s / step.count
        if step.noise_scale is not None:
            stretch.noise_scale = step.noise_scale
        if stretch.count >= 2 ** (self._drawn // STRETCH_POINTS):
            self._end_stretch()

    def _end_stretch(self) -> None:
        stretch, self._stretch = self._stretch, None
        if stretch is None:
            return
        values = {
            "train/lr": stretch.lr,
            "train/noise_scale": stretch.noise_scale,
            "train/step_time_s": stretch.time_s / stretch.count,
            "train/loss_mean": stretch.loss.value,
        }
        if stretch.time_s > 0:
            values["train/samples_per_s"] = stretch.samples / stretch.time_s
        self._drawn += 1
        known = {name: value for name, value in values.items() if value is not None}
        self._points.append(Point(stretch.samples_seen, time(), known, attempt=self.attempt))
