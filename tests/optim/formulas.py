"""The optimizers' formulas, without state: every mean and sum is written out over all gradients.

Each is a function of the first weight and the gradients so far, for `check_optimizer`; the defaults
are PyTorch's. The weight itself is followed from step to step, since weight decay looks at it.
"""

import numpy as np


def weighted(shares, values):
    return sum(share * value for share, value in zip(shares, values, strict=True))


def fading(rate, count):
    """rate^(count - 1), ..., rate, 1: what is left of values of so many steps, oldest first."""
    return [rate**age for age in range(count - 1, -1, -1)]


def slopes(weight, gradient, weight_decay, maximize):
    return weight_decay * weight + (-gradient if maximize else gradient)


def sgd(
    weight,
    gradients,
    lr=1e-3,
    momentum=0.0,
    dampening=0.0,
    weight_decay=0.0,
    nesterov=False,
    maximize=False,
):
    seen = []
    for gradient in gradients:
        seen.append(slopes(weight, gradient, weight_decay, maximize))
        move = seen[-1]
        if momentum:
            damped = [seen[0], *[(1 - dampening) * g for g in seen[1:]]]
            move = weighted(fading(momentum, len(seen)), damped)
        if nesterov:
            move = seen[-1] + momentum * move
        weight = weight - lr * move
    return weight


def adagrad(
    weight,
    gradients,
    lr=1e-2,
    lr_decay=0.0,
    weight_decay=0.0,
    initial_accumulator_value=0.0,
    eps=1e-10,
    maximize=False,
):
    seen = []
    for earlier, gradient in enumerate(gradients):
        seen.append(slopes(weight, gradient, weight_decay, maximize))
        total = initial_accumulator_value + sum(g**2 for g in seen)
        weight = weight - lr / (1 + earlier * lr_decay) * seen[-1] / (np.sqrt(total) + eps)
    return weight


def rmsprop(
    weight,
    gradients,
    lr=1e-2,
    alpha=0.99,
    eps=1e-8,
    weight_decay=0.0,
    momentum=0.0,
    centered=False,
    maximize=False,
):
    seen, scaled = [], []
    for gradient in gradients:
        seen.append(slopes(weight, gradient, weight_decay, maximize))
        shares = [(1 - alpha) * share for share in fading(alpha, len(seen))]
        spread = weighted(shares, [g**2 for g in seen])
        if centered:  # the variance of what was seen, and of the zero that stands for the rest
            mean = weighted(shares, seen)
            spread = weighted(shares, [(g - mean) ** 2 for g in seen])
            spread = spread + alpha ** len(seen) * mean**2
        scaled.append(seen[-1] / (np.sqrt(spread) + eps))
        weight = weight - lr * weighted(fading(momentum, len(seen)), scaled)
    return weight


def adam(
    weight,
    gradients,
    lr=1e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    amsgrad=False,
    maximize=False,
):
    seen, squares = [], []
    for gradient in gradients:
        seen.append(slopes(weight, gradient, weight_decay, maximize))
        of_mean, of_square = (fading(beta, len(seen)) for beta in betas)
        mean = weighted(of_mean, seen) / sum(of_mean)
        squares.append((1 - betas[1]) * weighted(of_square, [g**2 for g in seen]))
        square = np.max(squares, axis=0) if amsgrad else squares[-1]
        square = square / ((1 - betas[1]) * sum(of_square))
        weight = weight - lr * mean / (np.sqrt(square) + eps)
    return weight
