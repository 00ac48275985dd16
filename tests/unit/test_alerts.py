"""Degenerate training is named once, healthy training is not."""

from types import SimpleNamespace

import pytest
import torch

from uedpo.callbacks.alerts import Alerts, Step, correlation, measure, spread
from uedpo.weights.probe import UncertaintyProbe, WeighedBatch


def healthy(n):
    torch.manual_seed(n)
    return Step(-0.1 * 40, 40, torch.randn(4), torch.randn(4).round())


def test_nothing_is_said_of_healthy_steps_or_before_the_window_is_full():
    alerts = Alerts(window=3)
    for n in range(8):
        alerts.steps.append(healthy(n))
        alerts.spreads.append(0.1)
    assert alerts.found() == {}
    alerts = Alerts(window=3)
    for _ in range(2):
        alerts.steps.append(Step(-100.0, 40, torch.ones(4), torch.ones(4)))
        alerts.spreads.append(0.0)
    assert alerts.found() == {}


def test_collapse_is_nats_a_token():
    alerts = Alerts(window=2, collapse=0.5)
    for ratio in (-10.0, -31.0):  # 41 nats over 80 tokens
        alerts.steps.append(Step(ratio, 40, torch.zeros(2), torch.zeros(2)))
    (text,) = alerts.found().values()
    assert text.startswith("chosen responses lost 0.51 nats a token")
    assert Alerts(window=2, collapse=0.52).found() == {}


def test_margins_that_follow_length_are_found():
    alerts = Alerts(window=2)
    lengths = torch.tensor([-3.0, 0.0, 2.0, 5.0])
    for _ in range(2):
        alerts.steps.append(Step(0.0, 40, 2 * lengths + 0.1 * torch.tensor([1.0, -1, 1, -1]), lengths))
    assert list(alerts.found()) == ["the margin follows length"]
    for _ in range(2):  # margins that hardly differ say nothing
        alerts.steps.append(Step(0.0, 40, 0.01 * lengths, lengths))
    assert alerts.found() == {}


def test_equal_weights_are_found():
    alerts = Alerts(window=2)
    alerts.spreads.extend([0.0, 1e-9])
    assert list(alerts.found()) == ["all token weights are equal"]


def test_an_alert_is_said_once(capsys):
    alerts, trainer = Alerts(window=1), SimpleNamespace(global_step=5, loggers=[])
    alerts._say(trainer, "a", "b")
    alerts._say(trainer, "a", "b")
    assert capsys.readouterr().out == "WARNING at step 5: a: b\n"


def test_measure_takes_chosen_and_rejected_and_no_further_negatives():
    step = measure([3, 1, 2, 3, 9, 9], torch.tensor([-3.0, -2.0, -6.0, -12.0]))
    assert step.log_ratio == -5.0
    assert step.tokens == 4
    assert step.margins.tolist() == [3.0, 10.0]
    assert step.lengths.tolist() == [1.0, -2.0]


def test_spread_is_of_response_tokens_that_do_not_weigh_1():
    mask = torch.tensor([[True, True, True, False]])
    assert spread(mask, torch.tensor([[1.0, 1.25, 1.5, 9.0]])) == 0.25
    assert spread(mask, torch.ones(1, 4)) == 0


def test_the_micro_batches_of_a_step_are_read_together():
    """With two pairs and one negative more, of which nothing is said."""
    alerts = Alerts(window=2)
    probe = UncertaintyProbe(alpha=0.3)
    trainer = SimpleNamespace(
        is_global_zero=True, accumulate_grad_batches=2, callbacks=[probe], loggers=[], global_step=0
    )
    batch = SimpleNamespace(ids=["a", "b"], response_lengths=[3, 1, 2, 3, 9, 9])
    mask, weights = torch.ones(4, 2).bool(), torch.tensor([[1.0, 1.2]] * 4)
    probe.last = WeighedBatch(0, mask, None, weights)
    module = SimpleNamespace(last_logps=(torch.full((6, 2), -2.0), torch.full((6, 2), -1.0)))
    for i in range(2):
        assert not alerts.steps
        alerts.on_train_batch_end(trainer, module, None, batch, i)
    assert [(step.log_ratio, step.tokens) for step in alerts.steps] == [(-4.0, 4)] * 2
    assert list(alerts.spreads) == [0.0, 0.0]


def test_correlation_is_pearsons():
    x, y = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([3.0, 1.0, 0.0])
    assert correlation(x, y) == pytest.approx(float(torch.corrcoef(torch.stack([x, y]))[0, 1]))
    assert correlation(x, torch.ones(3)) == 0
