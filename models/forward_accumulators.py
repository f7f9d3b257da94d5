"""The learning rule of 1997 as its paper has it: forward in time, without going back.

Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9(8), appendix A.1. Since
error leaves a memory cell through the output gate and the output only, and stays constant inside,
it is enough to carry along how each cell's state depends on the weights that lead into its block,

    ds/dw_in  <-  ds/dw_in + g(net) f'(net_in) z         ds/dw_cell  <-  ds/dw_cell + g'(net) y_in z

and to multiply with the error of the moment. That takes no more memory however long a sequence is.
It is the gradient that microtensor's backward pass comes to for a truncated cell
(`recurrence.Cell(truncated=True)`), and shares not a line with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from models.lstm1997 import Network


def accumulated(
    network: Network, weights: Mapping[str, np.ndarray], x: np.ndarray, targets: np.ndarray
) -> dict[str, np.ndarray]:
    """The truncated gradient of 1/2 the squared error of one sequence, by appendix A.1.

    Parameters
    ----------
    network
        With connectivity F, output gates, logistic output units, and g and h of the text or of
        table 10.
    weights
        Its weights by the names of `Network.shapes`.
    x, targets
        Shapes (T, I) and (T, O); every step has a target.

    Returns
    -------
    dict
        The gradient of each weight.
    """
    blocks, size, cells = network.blocks, network.size, network.cells
    biased = network.cell.biased
    rows = {"i": slice(0, blocks), "g": slice(blocks, blocks + cells)}
    rows["o"] = slice(blocks + cells, 2 * blocks + cells)
    w = np.concatenate([weights["weight_ih"], weights["weight_hh"]], 1)
    bias = np.zeros(len(w))
    at = 0
    for gate in biased:
        width = rows[gate].stop - rows[gate].start
        bias[rows[gate]] = weights["bias_ih"][at : at + width]
        at += width
    g_limit, h_limit = {"text": (2, 1), "table": (1, 2)}[network.squashing]
    of = np.arange(cells) // size  # the block of each cell
    y, y_in, y_out, s = np.zeros(cells), np.zeros(blocks), np.zeros(blocks), np.zeros(cells)
    ds_in, ds_cell = (np.zeros((cells, w.shape[1] + 1)) for _ in range(2))
    d_w, d_bias = np.zeros_like(w), np.zeros(len(w))
    d_readout = np.zeros_like(weights["readout_weight"])
    d_readout_bias = np.zeros(len(d_readout))
    for x_t, target in zip(x, targets, strict=True):
        z = np.concatenate([x_t, y, y_in, y_out, [1.0]])
        net = w @ z[:-1] + bias
        y_in, y_out = _sigma(net[rows["i"]]), _sigma(net[rows["o"]])
        sigma = _sigma(net[rows["g"]])
        g, g_prime = g_limit * (2 * sigma - 1), 2 * g_limit * sigma * (1 - sigma)
        s = s + y_in[of] * g
        sigma = _sigma(s)
        h, h_prime = h_limit * (2 * sigma - 1), 2 * h_limit * sigma * (1 - sigma)
        y = y_out[of] * h
        ds_cell += (g_prime * y_in[of])[:, None] * z
        ds_in += (g * (y_in * (1 - y_in))[of])[:, None] * z
        out = _sigma(weights["readout_weight"] @ y + weights.get("readout_bias", 0))
        e = out * (1 - out) * (out - target)
        d_readout += np.outer(e, y)
        d_readout_bias += e
        back = weights["readout_weight"].T @ e
        e_s = y_out[of] * h_prime * back
        e_out = np.bincount(of, h * back, blocks) * y_out * (1 - y_out)
        for gate, d in (
            ("o", np.outer(e_out, z)),
            ("g", e_s[:, None] * ds_cell),
            ("i", np.add.reduceat(e_s[:, None] * ds_in, np.arange(0, cells, size), 0)),
        ):
            d_w[rows[gate]] += d[:, :-1]
            d_bias[rows[gate]] += d[:, -1]
    split = weights["weight_ih"].shape[1]
    found = {"weight_ih": d_w[:, :split], "weight_hh": d_w[:, split:]}
    found |= {"readout_weight": d_readout, "readout_bias": d_readout_bias}
    # Nothing of it in front, since there may be no gate with a bias, and so nothing to join.
    found["bias_ih"] = np.concatenate([d_bias[:0], *[d_bias[rows[gate]] for gate in biased]])
    return {name: found[name] for name in weights}


def _sigma(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))
