"""JAX under jit, compiled before anything is timed; the chain of additions without jit.

Compiled, a chain is one loop and no operation costs anything; compiling W10 at T = 4000, unrolled,
takes minutes, and longer chains without jit do too. Those are not run.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.contenders import Task


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
