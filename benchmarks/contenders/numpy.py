"""No framework: the array calls that the mathematics needs, derivatives by hand. The floor."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.contenders import Task


def spiral(points: Any, labels: Any, layers: Any, lr: float) -> Task:
    (w1, b1), (w2, b2), (w3, b3) = [(weight.T.copy(), bias.copy()) for weight, bias in layers]
    rows, ones = np.arange(len(points)), np.ones(len(points), points.dtype)
    zeros = np.zeros((len(points), w1.shape[1]), points.dtype)
    lr, last = np.float32(lr), [None]

    def step() -> None:
        h1 = points.dot(w1)
        h1 += b1
        np.maximum(h1, zeros, out=h1)
        h2 = h1.dot(w2)
        h2 += b2
        np.maximum(h2, zeros, out=h2)
        z = h2.dot(w3)
        z += b3
        z -= z.max(1, keepdims=True)
        p = np.exp(z)
        total = p.dot(np.ones(3, p.dtype))
        last[0] = (np.log(total) - z[rows, labels]).mean()
        p /= total[:, None]
        p[rows, labels] -= 1
        p /= np.float32(len(points))
        g2 = p.dot(w3.T)
        g2 *= h2 > zeros
        g1 = g2.dot(w2.T)
        g1 *= h1 > zeros
        for g, x, w, b in ((p, h2, w3, b3), (g2, h1, w2, b2), (g1, points, w1, b1)):
            w -= lr * x.T.dot(g)
            b -= lr * ones.dot(g)

    return Task({"total": step}, lambda: [float(last[0])])


def expression(a: Any, b: Any, c: Any) -> Task:
    last: list[Any] = []

    def run() -> None:
        np.add.reduce(a * b + c)
        g = np.ones(a.shape, a.dtype)
        last[:] = [g * b, g * a, g]

    return Task({"total": run}, lambda: last)


def chain(a: Any, b: Any, n: int) -> Task:
    last: list[Any] = []

    def forward() -> None:
        y = a
        for _ in range(n):
            y = y + b

    def backward() -> None:
        g = np.ones(a.shape, a.dtype)
        total = np.zeros(b.shape, b.dtype)
        for _ in range(n):
            total += g
        last[:] = [g, total]

    return Task({"forward": forward, "backward": backward}, lambda: last)


def linear(x: Any, weight: Any, bias: Any, cotangent: Any) -> Task:
    """The three matrix products and nothing else, into arrays that are already there."""
    # The bias is not added, and its gradient is read here only so that all can be compared.
    out, dx, dw = np.empty_like(cotangent), np.empty_like(x), np.empty_like(weight)

    def run() -> None:
        np.dot(x, weight.T, out=out)
        np.dot(cotangent, weight, out=dx)
        np.dot(cotangent.T, x, out=dw)

    return Task({"total": run}, lambda: [dx.ravel()[:8], dw.ravel()[:8], cotangent.sum(0)[:8]])


def steps(x: Any) -> Task:
    kept: list[Any] = []
    last: list[Any] = []

    def forward() -> None:
        total = 0.0
        for t in range(x.shape[1]):
            out = np.tanh(x[:, t])
            total = total + np.add.reduce(out, None)
            kept.append(out)

    def backward() -> None:
        g = np.zeros_like(x)
        for t, out in enumerate(kept):
            g[:, t] += 1 - out * out
        last[:] = [g]

    phases = {"forward": forward, "backward": backward, "free": kept.clear}
    return Task(phases, lambda: [last[0][0, 0], last[0][-1, -1]])
