"""JAX under jit, compiled before anything is timed; the chain of additions without jit.

Compiled, a chain is one loop and no operation costs anything; compiling W10 at T = 4000, unrolled,
takes minutes, and longer chains without jit do too. Those are not run.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.contenders import Task
from benchmarks.trainings import Training


def _task(function: Any, arguments: Any, pick: Any = lambda results: results) -> Task:
    last = [None]

    def run() -> None:
        last[0] = jax.block_until_ready(function(*arguments))

    return Task({"total": run}, lambda: pick(last[0]))


def spiral(points: Any, labels: Any, layers: Any, lr: float) -> Task:
    def loss(parameters: Any, x: Any, y: Any) -> Any:
        *hidden, (weight, bias) = parameters
        for w, b in hidden:
            x = jax.nn.relu(x @ w.T + b)
        log_p = jax.nn.log_softmax(x @ weight.T + bias)
        return -jnp.mean(jnp.take_along_axis(log_p, y[:, None], 1))

    @jax.jit
    def update(parameters: Any, x: Any, y: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(parameters, x, y)
        return value, jax.tree.map(lambda p, g: p - lr * g, parameters, gradient)

    x, y = jnp.asarray(points), jnp.asarray(labels)
    state = [None, jax.tree.map(jnp.asarray, layers)]

    def step() -> None:
        state[:] = jax.block_until_ready(update(state[1], x, y))

    return Task({"total": step}, lambda: [float(state[0])])


def expression(a: Any, b: Any, c: Any) -> Task:
    gradient = jax.jit(jax.grad(lambda a, b, c: (a * b + c).sum(), (0, 1, 2)))
    return _task(gradient, [jnp.asarray(v) for v in (a, b, c)])


def chain(a: Any, b: Any, n: int) -> Task | None:
    if n > 1000:
        return None

    def summed(a: Any, b: Any) -> Any:
        for _ in range(n):
            a = a + b
        return a.sum()

    return _task(jax.grad(summed, (0, 1)), [jnp.asarray(a), jnp.asarray(b)])


def linear(x: Any, weight: Any, bias: Any, cotangent: Any) -> Task:
    @jax.jit
    def run(x: Any, weight: Any, bias: Any, g: Any) -> Any:
        out, pullback = jax.vjp(lambda x, w, b: x @ w.T + b, x, weight, bias)
        return out, *pullback(g)

    arguments = [jnp.asarray(v) for v in (x, weight, bias, cotangent)]
    return _task(run, arguments, lambda results: [v.ravel()[:8] for v in results[1:]])


def steps(x: Any) -> Task | None:
    length = x.shape[1]
    if length > 1000:
        return None
    gradient = jax.jit(jax.grad(lambda x: sum(jnp.tanh(x[:, t]).sum() for t in range(length))))
    return _task(gradient, [jnp.asarray(x)], lambda g: [g[0, 0], g[-1, -1]])


def _step_of(t: Training, p: Any) -> Any:
    """One step of the cell, for `jax.lax.scan`; it is given the input's product."""
    weight, bias = p["recurrent.weight_hh_l0"], p["recurrent.bias_hh_l0"]

    def rnn(state: Any, row: Any) -> Any:
        h = jnp.tanh(row + state[0] @ weight.T + bias)
        return (h, state[1]), h

    def lstm(state: Any, row: Any) -> Any:
        h, c = state
        i, f, g, o = jnp.split(row + h @ weight.T + bias, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    def gru(state: Any, row: Any) -> Any:
        h = state[0]
        r_x, z_x, n_x = jnp.split(row, 3, -1)
        r_h, z_h, n_h = jnp.split(h @ weight.T + bias, 3, -1)
        z = jax.nn.sigmoid(z_x + z_h)
        h = (1 - z) * jnp.tanh(n_x + jax.nn.sigmoid(r_x + r_h) * n_h) + z * h
        return (h, state[1]), h

    return {"rnn": rnn, "lstm": lstm, "gru": gru}[t.cell]


def _loss(t: Training, out: Any, y: Any) -> Any:
    if t.loss == "mse":
        return jnp.mean((out - y) ** 2)
    if t.loss == "mae":
        return jnp.mean(jnp.abs(out - y))
    if t.loss == "bce":
        return jnp.mean(jnp.maximum(out, 0) - out * y + jnp.log1p(jnp.exp(-jnp.abs(out))))
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(out), y[..., None], -1))


def _updated(t: Training, p: Any, g: Any, m: Any, v: Any, k: Any) -> Any:
    """Parameters and the optimizer's state after update k."""
    mapped = jax.tree.map
    if t.optimizer == "adam":
        m = mapped(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = mapped(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        a, b = 1 - 0.9**k, 1 - 0.999**k
        update = lambda p, m, v: p - t.lr * (m / a) / (jnp.sqrt(v / b) + 1e-8)  # noqa: E731
        return mapped(update, p, m, v), m, v
    if t.optimizer == "sgd":
        return mapped(lambda p, g: p - t.lr * g, p, g), m, v
    if t.optimizer == "adagrad":
        eps, v = 1e-10, mapped(lambda v, g: v + g * g, v, g)
    else:
        eps, v = 1e-7, mapped(lambda v, g: 0.9 * v + 0.1 * g * g, v, g)
    return mapped(lambda p, g, v: p - t.lr * g / (jnp.sqrt(v) + eps), p, g, v), m, v


def training(t: Training, x: Any, y: Any, weights: Any) -> Task:
    def forward(p: Any, state: Any, x: Any) -> Any:
        if t.symbols:
            x = p["first.weight"][x]
        elif t.first:
            x = x @ p["first.weight"].T + p["first.bias"]
        rows = x @ p["recurrent.weight_ih_l0"].T + p["recurrent.bias_ih_l0"]
        step = _step_of(t, p)
        if t.last:  # no output is kept that nothing reads
            state, _ = jax.lax.scan(lambda s, r: (step(s, r)[0], None), state, rows.swapaxes(0, 1))
            out = state[0]
        else:
            state, out = jax.lax.scan(step, state, rows.swapaxes(0, 1))
            out = out.swapaxes(0, 1)
        return out @ p["readout.weight"].T + p["readout.bias"], state

    @jax.jit
    def update(p: Any, m: Any, v: Any, k: Any, state: Any, x: Any, y: Any) -> Any:
        def loss(p: Any) -> Any:
            out, new = forward(p, state, x)
            return _loss(t, out, y), new

        (value, new), g = jax.value_and_grad(loss, has_aux=True)(p)
        p, m, v = _updated(t, p, g, m, v, k + 1)
        return value, p, m, v, k + 1, new if t.carried else state

    p = jax.tree.map(jnp.asarray, weights)
    zeros = jax.tree.map(jnp.zeros_like, p)
    start = (jnp.zeros((t.batch, t.hidden)),) * 2
    x, y = jnp.asarray(x), jnp.asarray(y)
    kept = [None, p, zeros, zeros, jnp.float32(0), start]

    def step() -> None:
        kept[:] = jax.block_until_ready(update(*kept[1:], x, y))

    return Task({"total": step}, lambda: [float(kept[0])])
