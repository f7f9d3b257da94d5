"""Small operations in plain NumPy, each with its backward pass written by hand.

The engine undoes broadcasting by itself and checks what rules return, so some mistakes cannot be
made with it. Here they can. All of this is right as it stands; the zoo plants its bugs in it.

A backward pass takes the cotangent of the result and the arguments, and returns one gradient for
each argument. Sizes: N rows, I inputs, O outputs; T steps, B sequences, H hidden units.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from microtensor.backend import Array


def dense(x: Array, weight: Array, bias: Array) -> Array:
    """A layer: x (N, I), weight (O, I), bias (O,) to (N, O)."""
    return np.tanh(x @ weight.T + bias)


def dense_backward(g: Array, x: Array, weight: Array, bias: Array) -> tuple[Array, ...]:
    """The gradients of x, weight and bias."""
    y = dense(x, weight, bias)
    slope = g * (1 - y * y)
    return slope @ weight, slope.T @ x, slope.sum(axis=0)


def grid(rows: Array, columns: Array) -> Array:
    """tanh(rows_i + columns_j): (n,), (m,) to (n, m)."""
    return np.tanh(rows[:, None] + columns)


def grid_backward(g: Array, rows: Array, columns: Array) -> tuple[Array, ...]:
    """The gradients of rows and columns."""
    y = grid(rows, columns)
    slope = g * (1 - y * y)
    return slope.sum(axis=1), slope.sum(axis=0)


def layer_norm(x: Array) -> Array:
    """Each row (N, I) shifted and scaled to mean 0 and variance 1."""
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(axis=1, keepdims=True) + 1e-5)


def layer_norm_backward(g: Array, x: Array) -> Array:
    """The gradient of x."""
    y = layer_norm(x)
    deviation = np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    shift = g.mean(axis=1, keepdims=True)
    stretch = y * (g * y).mean(axis=1, keepdims=True)
    return (g - shift - stretch) / deviation


def relu(x: Array) -> Array:
    """max(x, 0)."""
    return np.where(x > 0, x, 0)


def relu_backward(g: Array, x: Array) -> Array:
    """The gradient of x."""
    passed = g.copy()
    passed[x <= 0] = 0
    return passed


# -- an LSTM: one step, then back-propagation through time


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _gates(rows: Array) -> tuple[Array, ...]:
    """The gates i, f, g, o from what reaches them: (B, 4H) to four times (B, H)."""
    i, f, g, o = np.split(rows, 4, axis=1)
    return _sigmoid(i), _sigmoid(f), np.tanh(g), _sigmoid(o)


def lstm_step(rows: Array, c: Array) -> tuple[Array, Array]:
    """One step: what reaches the gates, rows (B, 4H), and the cell c (B, H), to the new h and c."""
    i, f, g, o = _gates(rows)
    new = f * c + i * g
    return o * np.tanh(new), new


def lstm_step_backward(
    cotangents: tuple[Array, Array], rows: Array, c: Array
) -> tuple[Array, Array]:
    """The gradients of rows and c."""
    dh, dc = cotangents
    i, f, g, o = _gates(rows)
    shown = np.tanh(f * c + i * g)
    dc = dc + dh * o * (1 - shown * shown)
    di = dc * g * i * (1 - i)
    df = dc * c * f * (1 - f)
    dg = dc * i * (1 - g * g)
    do = dh * shown * o * (1 - o)
    return np.concatenate([di, df, dg, do], axis=1), dc * f


def _run(x: Array, h: Array, c: Array, w_ih: Array, w_hh: Array, bias: Array) -> Any:
    """For each step what reaches its gates, and the states from before the first step on."""
    hs, cs, rows = [h], [c], []
    for x_t in x:
        rows.append(x_t @ w_ih.T + hs[-1] @ w_hh.T + bias)
        h, c = lstm_step(rows[-1], cs[-1])
        hs.append(h)
        cs.append(c)
    return rows, hs, cs


def lstm(
    x: Array, h: Array, c: Array, w_ih: Array, w_hh: Array, bias: Array
) -> tuple[Array, Array]:
    """The outputs (T, B, H) and the last cell (B, H) of an LSTM.

    x (T, B, I), h and c (B, H), w_ih (4H, I), w_hh (4H, H), bias (4H,); gates i, f, g, o.
    """
    _, hs, cs = _run(x, h, c, w_ih, w_hh, bias)
    return np.stack(hs[1:]), cs[-1]


def lstm_backward(
    cotangents: tuple[Array, Array],
    x: Array,
    h: Array,
    c: Array,
    w_ih: Array,
    w_hh: Array,
    bias: Array,
) -> tuple[Array, ...]:
    """The gradients of x, h, c, w_ih, w_hh and bias, by back-propagation through time."""
    d_outputs, dc = cotangents
    dx, dh, dw_ih, dw_hh, db = [np.zeros_like(array) for array in (x, h, w_ih, w_hh, bias)]
    rows, hs, cs = _run(x, h, c, w_ih, w_hh, bias)
    for t in reversed(range(len(x))):  # hs[t] and cs[t] are the states before step t
        slopes, dc = lstm_step_backward((dh + d_outputs[t], dc), rows[t], cs[t])
        dw_ih += slopes.T @ x[t]
        dw_hh += slopes.T @ hs[t]
        db += slopes.sum(axis=0)
        dx[t] = slopes @ w_ih
        dh = slopes @ w_hh
    return dx, dh, dc, dw_ih, dw_hh, db
