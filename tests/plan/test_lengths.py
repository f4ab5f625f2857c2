import pytest

from scaler.job.section import Length, Point
from scaler.plan.lengths import Lengths, written

LENGTHS = Lengths(
    global_batch_size=4,
    reference_batch_size=2,
    is_elastic=False,
    num_samples=10,
    last_batch="scale",
    total_samples=25,
)


@pytest.mark.parametrize(
    ("point", "samples", "stretch"),
    [
        (Point(samples=7), 7, 7),
        (Point(epochs=2), 20, 20),
        (Point(epochs=0.25), 2, 2),  # 2.5, rounded to even
        (Point(epochs=0.001), 1, 1),  # at least a sample
        (Point(fraction=0.5), 12, 12),  # 12.5, rounded to even
        (Point(fraction=1), 25, 25),
        (Point(fraction=0.001), 0, 1),  # as a point, the start; as an interval, a sample
        (Point(steps=1), 4, 4),
        (Point(steps=3), 10, 12),  # walked, the third is short; as an interval, full batches
        (Point(steps=4), 14, 16),
    ],
)
def test_lengths_in_any_unit(point: Point, samples: int, stretch: int) -> None:
    assert (LENGTHS.samples(point), LENGTHS.stretch(point)) == (samples, stretch)


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (Length(epochs=1), "1 epoch"),
        (Length(epochs=0.5), "0.5 epochs"),
        (Length(steps=4000), "4000 steps"),
        (Length(samples=1), "1 sample"),
        (Point(fraction=0.1), "0.1 of the training"),
    ],
)
def test_lengths_as_people_say_them(length: Length, text: str) -> None:
    assert written(length) == text
