"""What compiled loops take from the user's arrays, and what they put there: a table of moves.

A call of a small layer takes a few millionths of a second, so all of a pass is one compiled call:
it brings in weights, inputs and states, computes, and fills the arrays that are handed out. The
loops themselves work in one flat array `m` (loops.py), where rows are padded and weights are
transposed. A `Move` says where in `m` some numbers stand and where in the user's array; the plan of
a call has the table of all of them, and the compiled functions `put` and `take` make some of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

WEIGHTS = {"weight_ih": 2, "weight_hh": 2, "bias_ih": 1, "bias_hh": 1}  # and how many axes

# The moves have the order in which they are made: forward, at the beginning and at the end;
# backward, at the beginning (the last only if x needs a gradient), before and behind each block of
# steps, and at the end.
GROUPS = ("enter", "leave", "return", "return_x", "arrive", "pass_on", "total")


class Move(NamedTuple):
    """As three loops i, j, k see it, in `m` and in the user's array."""

    array: int  # which of those that the pass is called with, counted from 1; 0: none
    place: int  # in `m`
    m_i: int  # how far it is there from one i to the next
    m_j: int
    m_k: int
    u_0: int  # in the user's array
    u_i: int
    u_j: int
    u_k: int
    n_i: int  # how many; -1: the steps that are asked for
    n_j: int
    n_k: int
    add: int = 0  # whether it is added to what is there


def lines_of(nothing: int, *cases: tuple[str, str]) -> list[str]:
    """The loops over some moves, with what is done in each case: m[p] is ours, q the user's place.

    `nothing` is where in `s` the addresses begin, with one that is 0.
    Numbers are unsigned where Numba would count negative ones from the end.
    """
    lines = ["stay_apart()", "for row in range(first, last):"]
    lines += [f"    {name} = moves[row, {i}]" for i, name in enumerate(Move._fields)]
    lines += [
        "    low, high = (start, stop) if n_i < 0 else (0, n_i)",
        f"    address = s[{nothing} + array]",
        "    for i in range(low, high):",
        "        for j in range(n_j):",
        "            p = uint64(place + (i - low) * m_i + j * m_j)",
        "            q = uint64(u_0 + i * u_i + j * u_j)",
    ]
    for case, statement in cases:
        lines += [
            f"            {case}:",
            "                for k in range(n_k):",
            f"                    {statement}",
            "                    p, q = p + uint64(m_k), q + uint64(u_k)",
        ]
    return [f"    {line}" for line in lines]


def arrays_of(cell: Any, backward: bool = False) -> dict[str, int]:
    """The arrays that a pass is called with, and how many axes they have.

    What is read, and what is filled. `first` and `last` are the states, numbered like the weights
    per unit; backward `to_` is what arrives at a result, and `of_` the gradient of an argument.
    """
    states, units = range(len(cell.state)), range(len(cell.per_unit))
    given = {
        "x": 3,
        **{f"first{k}": 3 for k in states},
        **WEIGHTS,
        **{f"unit{k}": 1 for k in units},
    }
    found = {"outputs": 3, **{f"last{k}": 3 for k in states}}
    if not backward:
        return {**given, **found}
    arrive = {f"to_{name}": axes for name, axes in found.items()}
    weights = {name: WEIGHTS[name] for name in ("weight_ih", "weight_hh")}
    return {**arrive, **weights, **{f"of_{name}": axes for name, axes in given.items()}}


def table(loops: Any, n: Mapping[str, int]) -> dict[str, list[Move]]:
    """All moves of a cell's passes, by group.

    `n` are the numbers that the loops know of a call (loops.NUMBERS); and of the user's rows (t, b)
    the place of the `first_row`, and how far it is to those of the `next_step` and the
    `next_sequence`.
    """
    cell = loops.cell
    B, H, P, I, X, F, M, R = [n[name] for name in "BHPIXFMR"]
    units, edges = range(len(cell.per_unit)), len(loops.edges)
    forward, backward = ["", *arrays_of(cell)], ["", *arrays_of(cell, backward=True)]
    found: dict[str, list[Move]] = {name: [] for name in GROUPS}

    def sequences(array: int, place: int, step: int, row: int, width: int) -> Move:
        a, b, c = [n[name] * width for name in ("first_row", "next_step", "next_sequence")]
        return Move(array, place, step, row, 1, a, b, c, 1, -1, B, width)

    def state(array: int, place: int, row: int) -> Move:
        return Move(array, place, 0, row, 1, 0, 0, H, 1, 1, B, H)

    def zeros(place: int, row: int, rows: int, columns: int) -> Move:
        return Move(0, place, 0, row, 1, 0, 0, 0, 0, 1, rows, columns)

    # The weights transposed, [W_ih b W_hh]; their gradients come the same way back.
    places = (("enter", "", n["weight"], n["unit"]), ("total", "of_", n["dw"], n["d_unit"]))
    for group, prefix, weight, unit in places:
        names = backward if prefix else forward
        for first, last, gate, kind in loops.pieces:
            for name, other, column, width in (("ih", "h", 0, I), ("hh", "x", I + 1, H)):
                if kind != other:
                    array, bias = [
                        names.index(f"{prefix}{what}_{name}") for what in ("weight", "bias")
                    ]
                    at, rows, second = weight + first * P, last - first, kind == "" and name == "hh"
                    theirs = (gate * H * width, H * width, width, 1, rows, H, width)
                    found[group] += [
                        Move(array, at + column * M, P, 1, M, *theirs),
                        Move(bias, at + I * M, P, 0, 1, gate * H, H, 0, 1, rows, 1, H, int(second)),
                    ]
        for k in units:
            array = names.index(f"{prefix}unit{k}")
            found[group].append(Move(array, unit + k * P, 0, 0, 1, 0, 0, 0, 1, 1, 1, H))

    # Inputs, outputs and states.
    found["enter"].append(sequences(1, n["hx"], B * F, F, I))
    for k, name in enumerate(cell.state):
        place, step, row = n["hx"] + I + 1, B * F, F
        if name in loops.kept:
            place, step, row = n["record"] + loops.kept.index(name) * P, n["record_step"], R
        found["enter"].append(state(2 + k, place, row))
        if k == 0:
            outputs = forward.index("outputs")
            found["leave"].append(sequences(outputs, place + step, step, row, H))
        found["leave"].append(state(forward.index(f"last{k}"), place + n["T"] * step, row))
        place, row = n["dh"], P
        if name in loops.edges:
            place, row = n["edge"] + loops.edges.index(name) * P, edges * P
        found["return"].append(state(2 + k, place, row))
        found["total"].append(state(backward.index(f"of_first{k}"), place, row))
    found["arrive"].append(sequences(1, n["g"], B * P, P, H))
    found["pass_on"].append(sequences(backward.index("of_x"), n["dx"], B * X, X, I))

    # The weights as they are, for the products backward; and sums begin with zero.
    at = n["back_x"]
    for first, last, gate, kind in loops.pieces:
        if kind != "x":
            ours = (n["back"] + first * H * P, H * P, P, 1)
            theirs = (gate * H * H, H * H, H, 1, last - first, H, H)
            found["return"].append(Move(backward.index("weight_hh"), *ours, *theirs))
        if kind != "h":
            theirs = (gate * H * I, H * I, I, 1, last - first, H, I)
            found["return_x"].append(Move(backward.index("weight_ih"), at, H * X, X, 1, *theirs))
            at += (last - first) * H * X
    found["return"].insert(0, zeros(n["dh"], P, B, P))
    found["return"].append(zeros(n["dw"], M, I + 1 + H, len(loops.rows) * P))
    found["return"].append(zeros(n["d_unit"], P, len(units), P))
    return found
