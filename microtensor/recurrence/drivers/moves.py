"""What compiled loops take from the user's arrays, and what they put there: a table of moves.

A call of a small layer takes a few millionths of a second, so all of a pass is one compiled call:
it brings in weights, inputs and states, computes, and fills the arrays that are handed out. The
loops themselves work in one flat array `m` (loops.py), where rows are padded and weights are
transposed. A `Move` says where in `m` some numbers stand and where in the user's array; the plan of
a call has the table of all of them, and the compiled functions `put` and `take` make some of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
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


_Theirs = tuple[int, int, int, int, int, int, int]  # u_0 to n_k of a move


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


def table(loops: Any, n: Mapping[str, int], block_size: int) -> dict[str, list[Move]]:
    """All moves of a cell's passes, by group.

    `n` are the numbers that the loops know of a call (loops.NUMBERS); and of the user's rows (t, b)
    the place of the `first_row`, and how far it is to those of the `next_step` and the
    `next_sequence`. What there is of each block once goes to all its units, and comes from the
    first of them, or as their sum if it is a gradient.
    """
    cell = loops.cell
    B, H, P, I, X, F, M, R = [n[name] for name in "BHPIXFMR"]
    across, edges = len(loops.fed) * P, len(loops.edges)
    forward, backward = ["", *arrays_of(cell)], ["", *arrays_of(cell, backward=True)]
    found: dict[str, list[Move]] = {name: [] for name in GROUPS}
    sharing = {
        name: block_size if name in cell.of_blocks else 1 for name in (*cell.gates, *cell.state)
    }
    # Where the user's rows of each gate begin, those of its bias, and the columns of what is fed.
    rows_at, biases_at, columns_at = [
        _beginnings({name: H // sharing[name] for name in names})
        for names in (cell.gates, cell.biased, loops.fed)
    ]
    columns = columns_at[None]

    def rows_of(gate: str, count: int) -> _Theirs:
        """The user's rows of so many gates of W_ih, as a move sees them."""
        return rows_at[gate] * I, H * I, I, 1, count, H // sharing[gate], I

    def part_of(gate: str, count: int, value: str) -> _Theirs:
        """The same of W_hh, where they meet a fed value."""
        first, height, width = rows_at[gate], H // sharing[gate], H // sharing[value]
        begin = first * columns + columns_at[value]
        return begin, H * columns, columns, 1, count, height, width

    def sequences(array: int, place: int, step: int, row: int, width: int) -> Move:
        a, b, c = [n[name] * width for name in ("first_row", "next_step", "next_sequence")]
        return Move(array, place, step, row, 1, a, b, c, 1, -1, B, width)

    def state(name: str, array: int, place: int, row: int, s: int = 0, add: bool = False) -> Move:
        each = sharing[name]
        width = H // each
        return Move(array, place + s, 0, row, each, 0, 0, width, 1, 1, B, width, int(add))

    def zeros(place: int, row: int, rows: int, columns: int) -> Move:
        return Move(0, place, 0, row, 1, 0, 0, 0, 0, 1, rows, columns)

    # The weights transposed, [W_ih b W_hh]; their gradients come the same way back.
    places = (("enter", "", n["weight"], n["unit"]), ("total", "of_", n["dw"], n["d_unit"]))
    for group, prefix, weight, unit in places:
        names = backward if prefix else forward
        array = {name: names.index(f"{prefix}{name}") for name in WEIGHTS}
        for first, last, gate, kind, s in _by_unit(loops, sharing):
            name, count = cell.gates[gate], last - first
            each, at = sharing[name], weight + first * P + s
            more = int(bool(prefix) and s > 0)  # a gradient: the sum over the units
            if kind != "h":
                ours = (array["weight_ih"], at, P, each, M)
                found[group].append(Move(*ours, *rows_of(name, count), add=more))
            for k, value in enumerate(loops.fed if kind != "x" else ()):
                place = at + (I + 1 + k * H) * M
                ours = (array["weight_hh"], place, P, each, M * sharing[value])
                found[group].append(Move(*ours, *part_of(name, count, value), add=more))
            biases = [f"bias_{one}" for one, other in (("ih", "h"), ("hh", "x")) if kind != other]
            for bias in biases if name in cell.biased else ():
                second = kind == "" and bias == "bias_hh"
                ours = (array[bias], at + I * M, P, 0, each)
                theirs = (biases_at[name], H, 0, 1, count, 1, H // each)
                found[group].append(Move(*ours, *theirs, more if prefix else int(second)))
        for k in range(len(cell.per_unit)):
            of_unit = names.index(f"{prefix}unit{k}")
            found[group].append(Move(of_unit, unit + k * P, 0, 0, 1, 0, 0, 0, 1, 1, 1, H))

    # Inputs, outputs and states.
    found["enter"].append(sequences(1, n["hx"], B * F, F, I))
    for k, name in enumerate(cell.state):
        if name in loops.kept:
            place, step, row = n["record"] + loops.kept.index(name) * P, n["record_step"], R
        else:
            place, step, row = n["hx"] + I + 1 + loops.fed.index(name) * P, B * F, F
        units = range(sharing[name])
        found["enter"] += [state(name, 2 + k, place, row, s) for s in units]
        if k == 0:
            outputs = forward.index("outputs")
            found["leave"].append(sequences(outputs, place + step, step, row, H))
        last = forward.index(f"last{k}")
        found["leave"].append(state(name, last, place + n["T"] * step, row))
        if name in loops.edges:
            place, row = n["edge"] + loops.edges.index(name) * P, edges * P
        else:
            place, row = n["dh"] + loops.fed.index(name) * P, across
        found["return"].append(state(name, 2 + k, place, row))
        first = backward.index(f"of_first{k}")
        found["total"] += [state(name, first, place, row, s, s > 0) for s in units]
    found["arrive"].append(sequences(1, n["g"], B * P, P, H))
    found["pass_on"].append(sequences(backward.index("of_x"), n["dx"], B * X, X, I))

    # The weights as they are, for the products backward; and sums begin with zero.
    at = n["back_x"]
    weight_ih, weight_hh = backward.index("weight_ih"), backward.index("weight_hh")
    for first, last, gate, kind, s in _by_unit(loops, sharing):
        name, count = cell.gates[gate], last - first
        each = sharing[name]
        for k, value in enumerate(loops.fed if kind != "x" else ()):
            place = n["back"] + (first * H + s) * across + k * P
            ours = (weight_hh, place, H * across, each * across, sharing[value])
            found["return"].append(Move(*ours, *part_of(name, count, value)))
        if kind != "h":
            ours = (weight_ih, at + s * X, H * X, each * X, 1)
            found["return_x"].append(Move(*ours, *rows_of(name, count)))
            at += count * H * X if s == each - 1 else 0
    found["return"] = [
        zeros(n["dh"], across, B, across),
        zeros(n["edge"], edges * P, B, edges * P),
        *found["return"],
        zeros(n["dw"], M, I + 1 + len(loops.fed) * H, len(loops.rows) * P),
        zeros(n["d_unit"], P, len(cell.per_unit), P),
    ]
    return found


def _beginnings(widths: Mapping[str, int]) -> dict[str | None, int]:
    """Where each of several things begins that stand side by side; None: where they all end."""
    ends = itertools.accumulate(widths.values(), initial=0)
    return dict(zip([*widths, None], ends, strict=True))


def _by_unit(loops: Any, sharing: Mapping[str, int]) -> Iterator[tuple[int, int, int, str, int]]:
    """The pieces of a cell's rows (see `Loops`), with a unit's place in its block.

    That of the only one, 0, where a gate is not shared; of all in turn where it is.
    """
    for first, last, gate, kind in loops.pieces:
        for s in range(sharing[loops.cell.gates[gate]]):
            yield first, last, gate, kind, s
