"""Recurrent layers once more, as naively as possible: NumPy, one sequence and one step at a time.

Written from the equations, with nothing of microtensor in it: the oracle for the layers.
"""

import numpy as np


def sigma(x):
    return 1 / (1 + np.exp(-x))


def one_step(kind, weights, x, state, reset="after"):
    """x (I,), state a tuple of (H,): the new state."""
    w_ih, w_hh = weights["weight_ih"], weights["weight_hh"]
    b_ih, b_hh = weights.get("bias_ih", 0.0), weights.get("bias_hh", np.zeros(len(w_hh)))
    h = state[0]
    size = len(h)
    from_x = w_ih @ x + b_ih
    if kind in ("rnn_tanh", "rnn_relu"):
        a = from_x + w_hh @ h + b_hh
        return (np.tanh(a),) if kind == "rnn_tanh" else (np.maximum(a, 0),)
    if kind in ("lstm", "peephole_lstm"):
        c = state[1]
        i, f, g, o = (from_x + w_hh @ h + b_hh).reshape(4, size)
        p_i, p_f, p_o = (weights.get(f"p_{k}", 0.0) for k in "ifo")
        c_new = sigma(f + p_f * c) * c + sigma(i + p_i * c) * np.tanh(g)
        return sigma(o + p_o * c_new) * np.tanh(c_new), c_new
    x_r, x_z, x_n = from_x.reshape(3, size)
    u_r, u_z, u_n = w_hh.reshape(3, size, size)
    b_r, b_z, b_n = b_hh.reshape(3, size)
    r, z = sigma(x_r + u_r @ h + b_r), sigma(x_z + u_z @ h + b_z)
    inner = r * (u_n @ h + b_n) if reset == "after" else u_n @ (r * h) + b_n
    return ((1 - z) * np.tanh(x_n + inner) + z * h,)


def one_sequence(kind, weights, x, state, reverse, reset):
    """x (n, I): outputs (n, H) and the final state."""
    outputs = [None] * len(x)
    for t in range(len(x) - 1, -1, -1) if reverse else range(len(x)):
        state = one_step(kind, weights, x[t], state, reset)
        outputs[t] = state[0]
    return np.array(outputs), state


def whole_layer(kind, parameters, x, state, lengths, layers, directions, reset="after"):
    """x (T, B, I), state a tuple of (L*D, B, H): output (T, B, D*H), and the final state."""
    steps, batch, _ = x.shape
    size = state[0].shape[-1]
    final = tuple(np.empty_like(value) for value in state)
    for k in range(layers):
        output = np.zeros((steps, batch, directions * size))
        for d in range(directions):
            suffix = f"_l{k}" + ("_reverse" if d else "")
            weights = {
                name.removesuffix(suffix): value
                for name, value in parameters.items()
                if name.endswith(suffix)
            }
            for b in range(batch):
                n = lengths[b]
                start = tuple(value[k * directions + d, b] for value in state)
                y, end = one_sequence(kind, weights, x[:n, b], start, bool(d), reset)
                output[:n, b, d * size : (d + 1) * size] = y
                for value, one in zip(final, end, strict=True):
                    value[k * directions + d, b] = one
        x = output
    return x, final
