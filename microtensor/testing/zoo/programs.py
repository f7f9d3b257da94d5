"""What the exercises compute. Every program here is right, but may use something that is not.

A learner hands them to `check_grads` or `check_optimizer`; `explain` shows their lines.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from microtensor import engine, nn, ops, optim, recurrence
from microtensor.backend import Array, Generator
from microtensor.tensor import Tensor

# -- functions of tensors, as small as they can be


def squares(x: Any) -> Any:
    """Each number times itself."""
    return ops.square(x)


def mean_of_rows(x: Any) -> Any:
    """One mean for each row."""
    return ops.mean(x, axis=1)


def classifier_loss(logits: Any, labels: Any) -> Any:
    """The cross-entropy, averaged over the rows."""
    return ops.cross_entropy(logits, labels)


def greater_of_two(a: Any, b: Any) -> Any:
    """The greater of each pair; some pairs are equal."""
    return ops.maximum(a, b)


def errors(prediction: Any, target: Any) -> Any:
    """How far off a prediction is."""
    return prediction - target


def cosines(x: Any) -> Any:
    """The cosine of each number."""
    return ops.cos(x)


def magnitudes(x: Any) -> Any:
    """Each number without its sign."""
    return ops.abs(x)


def score_against_target(score: Any, target: Any) -> Any:
    """The loss of a yes-or-no question, from the raw score."""
    return ops.binary_cross_entropy_with_logits(score, target, reduction="none")


def layer(x: Any, weight: Any, bias: Any) -> Any:
    """x W^T + b."""
    return ops.linear(x, weight, bias)


def attention_weights(scores: Any) -> Any:
    """A softmax of each row."""
    return ops.softmax(scores, axis=1)


def product(a: Any, b: Any) -> Any:
    """A matrix product."""
    return a @ b


def turned(x: Any) -> Any:
    """The axes of a cube, each moved one place on."""
    return ops.transpose(x, (1, 2, 0))


def layer_without_bias(x: Any, weight: Any) -> Any:
    """x W^T."""
    return ops.linear(x, weight)


def squashed(x: Any) -> Any:
    """The hyperbolic tangent of each number."""
    return ops.tanh(x)


def scaled(x: Any, scale: Any) -> Any:
    """Each column by a factor of its own."""
    return x * scale


def ratio(a: Any, b: Any) -> Any:
    """Each a divided by its b."""
    return a / b


def logarithms(x: Any) -> Any:
    """The logarithm of each number."""
    return ops.log(x)


def log_probabilities(scores: Any) -> Any:
    """The logarithm of the softmax of each row."""
    return ops.log_softmax(scores, axis=1)


def wave_packet(x: Any) -> Any:
    """x sin x: one number, used twice."""
    return x * ops.sin(x)


def slope_penalty(x: Any) -> Any:
    """The squared length of a gradient, which losses contain that punish steep slopes."""
    x = x if x.requires_grad else Tensor(x.data, True)
    (slope,) = engine.grad(ops.tanh(x).sum(), [x], create_graph=True)
    return (slope * slope).sum()


def rows_picked(table: Any) -> Any:
    """Rows of a table, by number; one of them twice."""
    return table[[2, 0, 2]]


def residual(x: Any, y: Any) -> Any:
    """A shortcut around a bend: x goes both ways."""
    bent = ops.tanh(x)
    return (x + y) + bent


def sum_of_two(a: Any, b: Any) -> Any:
    """a + b."""
    return a + b


def all_but_the_first(x: Any) -> Any:
    """x without its first number."""
    return x[1:]


def to_the_power(x: Any) -> Any:
    """x to the power of two and a half."""
    return x**2.5


def soft_steps(x: Any) -> Any:
    """A rectifier with its corner rounded off."""
    return ops.softplus(x)


# -- recurrent layers, of which the parameters are checked too


class _Elman(nn.RNN):
    """Run step by step: what is planted in the loop shall be felt."""

    def forward(self, x: Any, state: Any = None, lengths: Any = None) -> tuple[Any, Any]:
        with recurrence.driver("steps"):
            return super().forward(x, state, lengths)


def elman_layer() -> nn.Module:
    """A simple recurrent layer with one input and two units."""
    return _Elman(1, 2, dtype="float64", generator=Generator(1))


# -- optimizers, and what they should do: the weight after the last of the gradients so far


def adam(parameters: Any) -> Any:
    """Adam."""
    return optim.Adam(parameters, lr=0.1, betas=(0.9, 0.99))


def adam_formula(weight: Array, gradients: list[Array]) -> Array:
    """Adam, as Kingma and Ba write it."""
    m = v = np.zeros_like(weight)
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        weight = weight - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
    return weight


def momentum(parameters: Any) -> Any:
    """Gradient descent with momentum."""
    return optim.SGD(parameters, lr=0.1, momentum=0.9)


def momentum_formula(weight: Array, gradients: list[Array]) -> Array:
    """Each gradient goes on acting, 0.9 times as strongly at every step."""
    n = len(gradients)
    for k, g in enumerate(gradients):
        weight = weight - 0.1 * g * sum(0.9**age for age in range(n - k))
    return weight


def decayed(parameters: Any) -> Any:
    """Gradient descent that also pulls the weights towards zero."""
    return optim.SGD(parameters, lr=0.1, weight_decay=0.02)


def decayed_formula(weight: Array, gradients: list[Array]) -> Array:
    """Down the gradient of the loss plus 0.01 times the squared weight."""
    for g in gradients:
        weight = weight - 0.1 * (g + 0.02 * weight)
    return weight


def rmsprop(parameters: Any) -> Any:
    """RMSprop."""
    return optim.RMSprop(parameters, lr=0.1, alpha=0.9)


def rmsprop_formula(weight: Array, gradients: list[Array]) -> Array:
    """Gradients over the root of a running mean of their squares."""
    v = np.zeros_like(weight)
    for g in gradients:
        v = 0.9 * v + 0.1 * g * g
        weight = weight - 0.1 * g / (np.sqrt(v) + 1e-8)
    return weight


def adagrad(parameters: Any) -> Any:
    """Adagrad."""
    return optim.Adagrad(parameters, lr=0.1)


def adagrad_formula(weight: Array, gradients: list[Array]) -> Array:
    """Gradients over the root of the sum of all their squares so far."""
    for t, g in enumerate(gradients, 1):
        total = sum(past * past for past in gradients[:t])
        weight = weight - 0.1 * g / (np.sqrt(total) + 1e-10)
    return weight
