"""Update rules and rate schedules."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from .recipes import Recipe


class AdamTF1(torch.optim.Optimizer):
    """Adam as TensorFlow 1 has it: epsilon is added to sqrt(v) before the bias correction ("epsilon hat").

    w -= lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps); the constants are tf.train.AdamOptimizer's.
    """

    def __init__(self, params: Iterable[dict[str, Any]], lr: float) -> None:
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyrefly: ignore[bad-override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            weights = [w for w in group["params"] if w.grad is not None]
            gradients = [w.grad for w in weights]
            for w in weights:
                if not self.state[w]:
                    self.state[w] = {
                        "step": torch.zeros((), dtype=torch.int64),
                        "m": torch.zeros_like(w),
                        "v": torch.zeros_like(w),
                    }
                self.state[w]["step"] += 1
            if not weights:
                continue
            first, second = group["betas"]
            t = int(self.state[weights[0]]["step"])
            rate = group["lr"] * math.sqrt(1 - second**t) / (1 - first**t)
            m, v = [self.state[w]["m"] for w in weights], [self.state[w]["v"] for w in weights]
            torch._foreach_lerp_(m, gradients, 1 - first)
            torch._foreach_mul_(v, second)
            torch._foreach_addcmul_(v, gradients, gradients, 1 - second)
            below = torch._foreach_sqrt(v)
            torch._foreach_add_(below, group["eps"])
            torch._foreach_addcdiv_(weights, m, below, -rate)


class SGD(torch.optim.SGD):
    """torch's, by its fused kernel; or, of weights with copies in bfloat16 (`copies`), by one that reads gradients and
    writes the copies in bfloat16: the same but for rounding.

    A weight that is cast for each pass, and whose gradient is cast back for each update, takes 32 bytes of memory to
    and fro; so it takes 20, and memory is what an update waits for.
    """

    def __init__(self, params: Iterable[dict[str, Any]], recipe: Recipe) -> None:
        super().__init__(params, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=True)
        self._copies: dict[nn.Parameter, tuple[nn.Parameter, int]] = {}  # by the weight, which had this version

    def copies(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """The weights that it updates in bfloat16, by their names, to pass through in their place: gradients gather
        there.
        """
        updated = {weight for group in self.param_groups for weight in group["params"]}
        found: dict[str, torch.Tensor] = {}
        for name, weight in model.named_parameters():
            if weight.ndim == 1 or weight not in updated:
                continue
            copy, version = self._copies.get(weight, (None, -1))
            if copy is None:
                copy = nn.Parameter(weight.detach().bfloat16())
            elif version != weight._version:  # someone else has written it
                with torch.no_grad():
                    copy.copy_(weight)
            self._copies[weight] = copy, weight._version
            found[name] = copy
        return found

    def _copy(self, weight: nn.Parameter) -> nn.Parameter | None:
        return self._copies[weight][0] if weight in self._copies else None

    def gradient(self, weight: nn.Parameter) -> torch.Tensor | None:
        """A weight's, of float32, wherever it lies."""
        copy = self._copy(weight)
        return weight.grad if copy is None or copy.grad is None else copy.grad.float()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets all gradients."""
        super().zero_grad(set_to_none)
        for copy, _ in self._copies.values():
            copy.grad = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of every parameter that has a gradient, or whose copy has one."""
        super().step()
        for group in self.param_groups:
            for weight in group["params"]:
                copy = self._copy(weight)
                if copy is None or copy.grad is None:
                    continue
                from .optim_cpu import update

                state = self.state[weight]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                update(
                    weight, state["momentum_buffer"], copy, copy.grad, rate=group["lr"], decay=group["weight_decay"],
                    momentum=group["momentum"], nesterov=group["nesterov"],
                )  # fmt: skip


def optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's rule over the weights and, in a group of their own, the biases of what is not frozen."""
    weights: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.split(".")[0] not in recipe.freeze)
        if parameter.requires_grad:
            (weights if parameter.ndim > 1 else biases).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": weights, "rate": 1.0, "weight_decay": recipe.weight_decay},
        {"params": biases, "rate": recipe.bias_lr, "weight_decay": recipe.weight_decay * recipe.bias_decay},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise UsageError(f"freeze={','.join(recipe.freeze)}: every layer is frozen; nothing is left to train")
    if recipe.optimizer == "adam-tf1":
        return AdamTF1(groups, recipe.lr)
    return SGD(groups, recipe)


def rate(recipe: Recipe, step: int, *, steps: int, epoch_steps: int, drops: int) -> float:
    """The learning rate of update `step` (from 0) of `steps`, `drops` being how often "plateau" has divided it."""
    warmup = recipe.warmup_steps
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    done = (step - warmup) / max(1.0, steps - warmup)
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1.0 + math.cos(math.pi * done))
    if recipe.schedule == "linear":
        return recipe.lr * (1.0 - done)
    if recipe.schedule == "step":
        return recipe.lr * recipe.lr_factor ** (step // (recipe.step_epochs * epoch_steps))
    return recipe.lr * recipe.lr_factor**drops


def set_rate(rule: torch.optim.Optimizer, lr: float, *, velocity_holds_rate: bool) -> None:
    """Sets the rate of the next update.

    The 2012 program, the paper and Caffe keep the rate inside the velocity, torch outside: scaling torch's momentum by
    old / new at each change makes the two the same numbers.
    """
    for group in rule.param_groups:
        old, new = group["lr"], lr * group["rate"]
        if velocity_holds_rate and old != new:
            for parameter in group["params"]:
                buffer = rule.state[parameter].get("momentum_buffer")
                if buffer is not None:
                    buffer.mul_(old / new)
        group["lr"] = new
