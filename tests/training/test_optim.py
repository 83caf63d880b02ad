import math

import numpy as np
import pytest
import torch
from torch import nn

from alexnet.training.optim import AdamTF1, optimizer, rate, set_rate
from alexnet.training.recipes import RECIPES, changed, recipe


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Linear(3, 2).double()


def gradients(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 2, 3))


def test_sgd_2012_is_the_papers_rule_through_a_drop_of_the_rate():
    chosen = changed(recipe("paper"), {"momentum": 0.9, "weight_decay": 5e-4})
    net = Two()
    rule = optimizer(net, chosen)
    w, b = net.conv1.weight.detach().numpy().copy(), net.conv1.bias.detach().numpy().copy()
    v, u = np.zeros_like(w), np.zeros_like(b)
    for i, g in enumerate(gradients(40)):
        lr = 0.01 if i < 20 else 0.001
        set_rate(rule, lr, velocity_holds_rate=True)
        net.conv1.weight.grad = torch.from_numpy(g)
        net.conv1.bias.grad = torch.from_numpy(g[:, 0].copy())
        rule.step()
        v = 0.9 * v - 0.0005 * lr * w - lr * g  # the paper, section 5
        w = w + v
        u = 0.9 * u - 2 * lr * g[:, 0]  # biases: twice the rate, no decay
        b = b + u
        assert np.abs(net.conv1.weight.detach().numpy() - w).max() < 1e-13
        assert np.abs(net.conv1.bias.detach().numpy() - b).max() < 1e-13


def test_torchs_rule_would_differ_after_the_drop():
    net = Two()
    rule = optimizer(net, recipe("paper"))
    w, v = net.conv1.weight.detach().numpy().copy(), np.zeros((2, 3))
    for i, g in enumerate(gradients(21)):
        lr = 0.01 if i < 20 else 0.001
        set_rate(rule, lr, velocity_holds_rate=False)
        net.conv1.weight.grad = torch.from_numpy(g)
        rule.step()
        v = 0.9 * v - 0.0005 * lr * w - lr * g
        w = w + v
    assert np.abs(net.conv1.weight.detach().numpy() - w).max() > 1e-3


@pytest.mark.parametrize("size", [1.0, 1e-5, 1e-7])
def test_adam_adds_epsilon_before_the_correction(size):
    w = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    rule = AdamTF1([{"params": [w]}], lr=0.01)
    m = v = 0.0
    ours = 0.0
    for t in range(1, 6):
        w.grad = torch.full((4,), size, dtype=torch.float64)
        rule.step()
        m, v = 0.9 * m + 0.1 * size, 0.999 * v + 0.001 * size * size
        ours -= 0.01 * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (math.sqrt(v) + 1e-8)
        assert abs(float(w.detach()[0]) - ours) < 1e-12
    # after five steps of a constant gradient, facts.md section 3
    expected = {1e-5: 0.0490, 1e-7: 0.0170}
    if size in expected:
        assert abs(-float(w.detach()[0]) - expected[size]) < 5e-5


def test_rates():
    fast = changed(recipe("fast"), {"lr": 1.0, "warmup_steps": 10})
    got = [rate(fast, s, steps=110, epoch_steps=10, drops=0) for s in range(110)]
    assert got[0] == pytest.approx(0.1) and got[9] == pytest.approx(1.0) and got[10] == pytest.approx(1.0)
    assert got[60] == pytest.approx(0.5) and 0 < got[-1] < 1e-3
    assert rate(fast, 4, steps=5, epoch_steps=1, drops=0) == pytest.approx(0.5), "a run may end within the warm-up"
    step = changed(recipe("torchvision"), {"lr": 1.0})
    assert rate(step, 299, steps=900, epoch_steps=10, drops=0) == 1.0
    assert rate(step, 300, steps=900, epoch_steps=10, drops=0) == pytest.approx(0.1)
    assert rate(recipe("paper"), 5, steps=9, epoch_steps=1, drops=2) == pytest.approx(1e-4)
    linear = changed(recipe("paper"), {"schedule": "linear", "lr": 1.0})
    assert rate(linear, 25, steps=100, epoch_steps=1, drops=0) == pytest.approx(0.75)


def test_recipes_are_typed_by_their_fields():
    made = changed(recipe("fast"), {"lr": "0.5", "mirror": "false", "freeze": "conv1,conv2", "dropout": "none"})
    assert (made.lr, made.mirror, made.freeze, made.dropout) == (0.5, False, ("conv1", "conv2"), None)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"lrr": 1}, "known are"),
        ({"lr": "fast"}, "lr=fast"),
        ({"lr": "nan"}, "lr=nan"),
        ({"lr": float("inf")}, "lr=inf"),
        ({"mirror": "yes"}, "mirror=yes"),
        ({"optimizer": "lion"}, "sgd-2012"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"weight_decay": "nan"}, "weight_decay=nan"),
        ({"weight_decay": -1e-4}, "must not be negative"),
        ({"brightness": 1.5}, "brightness=1.5"),
        ({"crop_scale": 0.0}, "crop_scale=0.0"),
        ({"scale": 0.0}, "scale=0.0"),
        ({"schedule": "step"}, "step_epochs=0"),
        ({"momentum": 0.0}, "nesterov"),
        ({"optimizer": "adam-tf1", "momentum": 0.0, "nesterov": False}, "weight_decay=0.0005: optimizer adam-tf1"),
        ({"name": "x"}, "known are"),
    ],
)
def test_an_impossible_value_is_named(values, says):
    from alexnet.errors import UsageError

    with pytest.raises(UsageError, match=says):
        changed(recipe("fast"), values)


def test_each_recipe_names_its_source_and_a_variant():
    from alexnet.network.variants import VARIANTS

    for name, row in RECIPES.items():
        assert row.name == name and row.source and row.variant in VARIANTS


class Layers(nn.Module):
    """Weights in both layouts that networks have, and biases; more values than a vector has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(5, 7, 3).to(memory_format=torch.channels_last)
        self.fc8 = nn.Linear(35, 11)


@pytest.mark.parametrize(("nesterov", "decay"), [(False, 0.0), (False, 0.01), (True, 0.01)])
def test_an_update_with_copies_is_torchs_but_for_rounding(nesterov, decay):
    chosen = changed(recipe("torchvision"), {"nesterov": nesterov, "weight_decay": decay})
    torch.manual_seed(0)
    ours, theirs = Layers(), Layers()
    theirs.load_state_dict(ours.state_dict())
    begun = [parameter.detach().clone() for parameter in ours.parameters()]
    rule, plain = optimizer(ours, chosen), optimizer(theirs, chosen)
    for step in range(8):
        for each in (rule, plain):
            set_rate(each, 0.1 / (1 + step), velocity_holds_rate=True)
            each.zero_grad()
        copies = rule.copies(ours)
        assert set(copies) == {"conv1.weight", "fc8.weight"}
        for (name, weight), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            gradient = torch.randn(weight.shape).bfloat16()  # of the other layout than conv1's weights
            other.grad = (
                gradient.float().to(memory_format=torch.channels_last) if weight.ndim == 4 else gradient.float()
            )
            if name in copies:
                assert torch.equal(copies[name], weight.bfloat16()) and copies[name].stride() == weight.stride()
                copies[name].grad = gradient
            else:
                weight.grad = gradient.float()
            assert torch.equal(rule.gradient(weight), other.grad)
        rule.step()
        plain.step()
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
            velocities = [each.state[w]["momentum_buffer"] for each, w in ((rule, one), (plain, other))]
            torch.testing.assert_close(*velocities, rtol=1e-6, atol=1e-6)
    for before, after in zip(begun, ours.parameters(), strict=True):
        assert float((after.detach() - before).abs().max()) > 0.1


def test_copies_follow_weights_that_someone_else_writes():
    net = Layers()
    rule = optimizer(net, recipe("torchvision"))
    first = rule.copies(net)
    net.load_state_dict(Layers().state_dict())
    again = rule.copies(net)
    for name, copy in again.items():
        assert copy is first[name] and torch.equal(copy, net.get_parameter(name).bfloat16())
    net = Layers()
    rule = optimizer(net, changed(recipe("torchvision"), {"freeze": "conv1"}))
    assert set(rule.copies(net)) == {"fc8.weight"}
