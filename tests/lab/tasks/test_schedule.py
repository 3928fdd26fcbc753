"""The learning rate: shapes from their definitions, and which of them begins when."""

import math
from types import SimpleNamespace

import pytest
import torch

from earlycrop import get_method
from earlycrop_lab.tasks.schedule import Schedule, Shape, course
from tests.lab.tasks.test_classification import one_cycle

PEAK = 2e-3


def adam():
    return torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)


def rates(schedule: Schedule, steps: int) -> list[float]:
    seen = []
    for number in range(steps):
        seen.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        if number < steps - 1:
            schedule.step()
    return seen


@pytest.mark.parametrize("begin", [0, 1, 40, 99])
def test_one_cycle_from_any_step_on(begin):
    schedule = Schedule(adam(), 2e-3)
    schedule.begin(Shape("one_cycle", 100, PEAK, begin))
    assert rates(schedule, 100 - begin) == pytest.approx([one_cycle(step, 100) for step in range(begin, 100)])


def test_a_cycle_after_another_begins_anew_and_beta1_with_it():
    schedule = Schedule(adam(), 2e-3)
    schedule.begin(Shape("one_cycle", 50, PEAK))
    rates(schedule, 50)
    schedule.begin(Shape("one_cycle", 80, PEAK, 20))
    assert rates(schedule, 60) == pytest.approx([one_cycle(step, 80) for step in range(20, 80)])
    assert schedule.optimizer.param_groups[0]["betas"][0] == pytest.approx(0.95)
    schedule.begin(Shape("constant", 10, 1e-5))
    assert rates(schedule, 10) == [1e-5] * 10
    assert schedule.optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_a_triangle_by_hand():
    schedule = Schedule(adam(), 2e-3)
    schedule.begin(Shape("triangle", 4, 1.0))
    assert rates(schedule, 5) == pytest.approx([0.1, 0.55, 1.0, 0.55, 0.1])


def test_a_third_at_the_peak_a_third_at_its_half_a_third_at_its_quarter():
    schedule = Schedule(adam(), 2e-3)
    schedule.begin(Shape("halving", 7, 0.8))
    assert rates(schedule, 8) == [0.8, 0.8, 0.8, 0.4, 0.4, 0.2, 0.2, 0.2]
    schedule.begin(Shape("halving", 7, 0.8, begin=3))
    assert rates(schedule, 4) == [0.4, 0.4, 0.2, 0.2]


def test_momentum_that_one_cycle_moved_is_put_back():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    schedule = Schedule(optimizer, 0.1)
    schedule.begin(Shape("one_cycle", 10, 0.1))
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.95)
    schedule.begin(Shape("constant", 10, 0.1))
    assert optimizer.param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize(
    "shape",
    [
        Shape("one_cycle", 30, PEAK, 4),
        Shape("triangle", 30, PEAK),
        Shape("constant", 30, PEAK / 100),
        Shape("halving", 30, PEAK),
    ],
)
def test_it_goes_on_from_its_state(shape):
    whole, first = Schedule(adam(), 2e-3), Schedule(adam(), 2e-3)
    for schedule in (whole, first):
        schedule.begin(shape)
    expected = rates(whole, 25)
    rates(first, 11)
    second = Schedule(adam(), 2e-3)
    second.load_state_dict(first.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert rates(second, 15) == pytest.approx(expected[10:])


def shapes(name: str, budget: int, cuts: dict[int, bool], total: int, steps: int = 10) -> dict[int, Shape]:
    """What begins when, given the epochs at which it cuts and whether that was the last time."""
    method, begun, done = get_method(name), {}, name == "dense"
    targets = method.steps.towards(0.9)
    for epoch in range(total):
        done = cuts.get(epoch, done)
        pruner = SimpleNamespace(epochs=budget, method=method, done=done, targets=targets)
        if shape := course(pruner, epoch, epoch in cuts, steps, PEAK, total):
            begun[epoch] = shape
    return begun


def test_which_shape_begins_when():
    cycle = lambda epochs, begin=0: Shape("one_cycle", epochs * 10, PEAK, begin * 10)  # noqa: E731
    assert shapes("dense", 8, {}, 8) == {0: cycle(8)}
    assert shapes("crop-s", 8, {0: True}, 8) == {0: cycle(8)}
    assert shapes("earlycrop-s", 8, {2: True}, 8) == {2: cycle(6)}
    assert shapes("efficient-convnets", 8, {8: True}, 12) == {0: cycle(8), 8: cycle(4)}
    cuts = {8: False, 15: False, 22: True}
    assert shapes("ltr", 8, cuts, 29) == {0: cycle(8), 8: cycle(8, 1), 15: cycle(8, 1), 22: cycle(8, 1)}
    assert shapes("imp", 8, {8: False, 16: True}, 24) == {0: cycle(8), 8: cycle(8), 16: cycle(8)}


def test_ticks_and_tocks():
    """16 epochs: a Tock, ten Ticks, a Tock, ten Ticks, four of tuning."""
    begun = shapes("gate-decorators", 16, {}, 42)
    assert sorted(begun) == [0, *range(16, 39)]
    assert begun[0] == Shape("one_cycle", 160, PEAK)
    assert begun[16] == begun[27] == Shape("triangle", 10, PEAK / 10)
    ticks = [begun[epoch] for epoch in (*range(17, 27), *range(28, 38))]
    assert all((each.kind, each.steps) == ("constant", 10) for each in ticks)
    assert all(math.isclose(each.peak, PEAK / 100) for each in ticks)
    assert begun[38] == Shape("triangle", 40, PEAK / 10)
