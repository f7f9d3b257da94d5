"""Online learning as one compiled loop: a recurrent layer, a readout, a loss, an update.

The experiments of Hochreiter and Schmidhuber (1997, "Long short-term memory", Neural Computation
9(8)) show a small network one sequence, change its weights, show it the next, several hundred
thousand times, and repeat all that in ten or thirty trials. `fit_online` does exactly this, for K
trials side by side: everything between two sequences stays inside a driver, and the equations are
those of any declared cell.

    draw = ...                                          # a function: the next sequences of K trials
    fit = mt.recurrence.fit_online(mt.recurrence.lstm, weights, draw, lr=0.1)
    for errors in fit:                                  # a chunk of sequences each time
        solved = errors.worst.max(axis=1) < 0.04        # each trial's largest error in the chunk
        fit.lr[solved] = 0                              # these are finished

Sizes in this file: K trials, N sequences of a chunk, T steps, I inputs, H units, G gates, O
outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from microtensor.backend import Array
from microtensor.recurrence.cell import Cell
from microtensor.recurrence.driver import driver as current_driver
from microtensor.recurrence.drivers import online_arrays, online_loops

__all__ = ["Errors", "OnlineFit", "Sequences", "fit_online"]

OUTPUTS = ("linear", "sigmoid", "softmax")
LOSSES = ("squared_error", "cross_entropy")
UPDATES = ("sequence", "step")
DRIVERS = ("numba", "arrays")


class Sequences(NamedTuple):
    """A chunk: the next N sequences of every trial.

    The leading axis of each array is K, or 1 where all trials see the same.

    Attributes
    ----------
    inputs
        (K, N, T, I) floats; or (K, N, T) integers from 0 to I-1, symbols that stand for one-hot
        vectors: their products are rows of the weights.
    targets
        (K, N, O) if there is a target at the last step of each sequence only, (K, N, T, O) if there
        may be one at every step. Or integers without the axis O: the class, from 0 to O-1, whose
        output is to be 1 and the others 0.
    lengths
        (K, N) integers from 1 to T, or None if all sequences have T steps. What stands behind the
        end of a sequence is not read.
    mask
        (K, N, T) truths: which steps have a target, where `targets` has the axis T. None: all.
    """

    inputs: Array
    targets: Array
    lengths: Array | None = None
    mask: Array | None = None


class Errors(NamedTuple):
    """What K trials did in a chunk, each sequence measured before its own update.

    With `update="step"` each step is measured before its own update.

    Attributes
    ----------
    loss
        (K, N): the loss of each sequence, summed over its steps that have a target.
    worst
        (K, N): the largest |output - target| of each sequence, over those steps and all outputs.
    outputs
        (K, N, O) or (K, N, T, O), in the form of the targets, zeros where there is none; None
        unless they were asked for.
    """

    loss: Array
    worst: Array
    outputs: Array | None = None


class Problem(NamedTuple):
    """All that a driver must know beside the arrays."""

    cell: Cell
    trials: int
    inputs: int
    hidden: int
    fed: int  # the length of what meets weight_hh
    outputs: int
    block_size: int
    dtype: Any
    direct: bool  # the readout sees the inputs too
    output: str
    loss: str
    steps: bool  # an update after every step
    keep: bool  # the outputs are asked for
    shapes: dict[str, tuple[int, ...]]  # of the weights that there are, without the trials' axis


class Chunk(NamedTuple):
    """Checked sequences, in the one form that drivers know."""

    inputs: Array  # (K or 1, N, T, I) in the weights' dtype, or symbols (K or 1, N, T) as int32
    targets: Array  # (K or 1, N, S, O) in the weights' dtype, or classes (K or 1, N, S) as int32
    lengths: Array  # (K, N) int32
    used: Array  # (K, N, S) bool: which have a target; S is T, or 1 if only last steps have
    last: bool


Draw = Callable[[], Sequences | None]


def fit_online(
    cell: Cell,
    weights: Mapping[str, Array],
    data: Draw | Iterable[Sequences],
    lr: float | Array,
    *,
    output: str = "linear",
    loss: str = "squared_error",
    update: str = "sequence",
    masks: Mapping[str, Array] | None = None,
    block_size: int = 1,
    outputs: bool = False,
    driver: str | None = None,
    threads: int = 1,
) -> OnlineFit:
    """Train K independent networks online, by plain stochastic gradient descent.

    Each network is one recurrent layer, whose state is zero before every sequence, and a readout,

        y_t = output(W h_t + b),    or    y_t = output(W [h_t; x_t] + b)

    the second if `readout_weight` has H + I columns. After every sequence w <- w - lr * dE/dw,
    where E is the sum of the losses at the steps that have a target.

    Parameters
    ----------
    cell
        A declared cell, such as `recurrence.lstm`.
    weights
        NumPy arrays of one dtype, float32 or float64, by name. The axis in front is the trials':
        `weight_ih` (K, G*H, I), `weight_hh` (K, G*H, H), `bias_ih` and `bias_hh` (K, G*H), each of
        the cell's weights per unit (K, H): what the parameters of an `nn.Recurrent` layer are in
        `nn.stack`; `readout_weight` (K, O, H) or (K, O, H+I) and `readout_bias` (K, O). With
        `per_block`, `feeds` and `biased` of a cell shapes are those of `nn.Recurrent`. Biases may
        be missing. The arrays are trained in place, and may be
        changed or copied between two chunks.
    data
        A function without arguments that draws the next chunk, and gives None when there is no
        more; or an iterable of chunks. A second thread draws one chunk ahead. So where a finished
        trial makes room for another one, the chunk that comes next is still the old trial's: keep
        its rate at 0 for that chunk, and put the new weights in after it.
    lr
        Learning rate of all trials, or K of them. A trial whose rate is 0 keeps its weights; if all
        are 0, nothing but the forward pass is computed.
    output
        "linear", "sigmoid" or "softmax".
    loss
        Of one step: "squared_error" is 1/2 sum_o (y_o - t_o)^2, the error of 1997, whose gradient
        has no factor 2. "cross_entropy" is -sum_o t_o log y_o after a softmax, and
        -sum_o (t_o log y_o + (1 - t_o) log(1 - y_o)) after sigmoids.
    update
        "sequence", or "step": the weights change after every step that has a target. The gradient
        of its loss then goes through all steps before it, each with the weights that it was
        computed with, as in real-time recurrent learning (Williams and Zipser 1989, "A learning
        algorithm for continually running fully recurrent neural networks", Neural Computation
        1(2)). Going back from every step costs time in proportion to T^2.
    masks
        Arrays like the weights, by the same names, or whatever can be broadcast to their shapes:
        factors of the learning rate of single weights. Where it is 0 a weight stays as it is, so a
        connection that there shall not be is a weight of 0 with a mask of 0.
    block_size
        How many units share a gate of `Cell.per_block`, as in `nn.Recurrent`.
    outputs
        Whether `Errors.outputs` are wanted.
    driver
        "numba", which compiles a cell when it is first used (some seconds; kept for later
        processes); "arrays", ten times as slow; or None: what `recurrence.driver()` says, and
        arrays where a cell cannot be compiled.
    threads
        How many threads may compute at once, with the driver "numba"; there is work for one in
        every 16 trials (float64: 8).

    Returns
    -------
    OnlineFit
        An iterator of `Errors`, one for each chunk. Each trial's numbers are the same to the last
        bit whatever trials are beside it, and however its sequences are cut into chunks.

    Raises
    ------
    ValueError
        If a name is unknown or missing, a shape does not fit, or options contradict each other.
        What is wrong with a chunk is raised when its turn comes.
    TypeError
        If something is not an array, or of a wrong dtype; or if the cell's equations cannot be
        derived (see `Cell.source`).
    """
    for what, chosen, known in (
        ("output", output, OUTPUTS),
        ("loss", loss, LOSSES),
        ("update", update, UPDATES),
        ("driver", driver, (*DRIVERS, None)),
    ):
        if chosen not in known:
            raise ValueError(
                f"fit_online: {what} must be {_either(known)}, got {chosen!r}",
            )
    if output == "linear" and loss == "cross_entropy":
        raise ValueError(
            "fit_online: the cross-entropy needs probabilities; choose output='sigmoid' or "
            "output='softmax'"
        )
    for what, number in (("threads", threads), ("block_size", block_size)):
        if type(number) is not int or number < 1:
            raise ValueError(f"fit_online: {what} must be a positive integer, got {number!r}")
    if not isinstance(cell, Cell):
        raise TypeError(f"fit_online: cell must be a recurrence.Cell, not {type(cell).__name__}")
    problem = Problem(
        cell=cell,
        **_check_weights(cell, weights, block_size),
        output=output,
        loss=loss,
        steps=update == "step",
        keep=outputs,
        shapes={name: value.shape[1:] for name, value in weights.items()},
    )
    chosen = _choose(problem, driver, threads)
    return OnlineFit(problem, dict(weights), data, lr, dict(masks or {}), chosen)


def _choose(problem: Problem, driver: str | None, threads: int) -> Any:
    """The driver that was asked for, or the fastest."""
    if (driver or current_driver()) == "numba":
        try:
            return online_loops.Online(problem, threads)
        except Exception:
            if driver == "numba":
                raise
    if problem.cell.program is None:
        problem.cell.source()  # says why
    return online_arrays.Online(problem)


class OnlineFit(Iterator[Errors]):
    """Training that goes on as far as it is iterated; made by `fit_online`.

    Attributes
    ----------
    weights
        The arrays given to `fit_online`, by name.
    lr
        (K,): the learning rates, to be changed between two chunks.
    masks
        Masks by name, to be changed between two chunks.
    """

    def __init__(
        self,
        problem: Problem,
        weights: dict[str, Array],
        data: Draw | Iterable[Sequences],
        lr: float | Array,
        masks: dict[str, Array],
        driver: Any,
    ) -> None:
        self.problem = problem
        self.weights, self.masks = weights, masks
        given = np.asarray(lr, dtype=np.float64)
        if given.shape not in ((), (problem.trials,)):
            raise ValueError(
                f"fit_online: lr must be one number or {problem.trials}, one for each trial; "
                f"got shape {given.shape}"
            )
        self.lr = np.array(np.broadcast_to(given, (problem.trials,)))
        self._rates()
        self._driver = driver
        self._draw = _as_function(data)
        self._ahead: online_loops.InThread | None = None
        self._over = False

    def __next__(self) -> Errors:
        """Train on the next chunk, while the one after it is drawn."""
        if self._over:
            raise StopIteration
        rates = self._rates()
        ahead = self._ahead or online_loops.InThread(self._next_chunk)
        self._over = True  # unless there is a chunk, and nothing is wrong with it
        chunk = ahead.result()
        if chunk is None:
            raise StopIteration
        self._over = False
        self._ahead = online_loops.InThread(self._next_chunk)
        loss, worst, outputs = self._driver.run(self.weights, rates, chunk)
        if outputs is not None and chunk.last:
            outputs = outputs[:, :, 0]
        return Errors(loss, worst, outputs)

    def _next_chunk(self) -> Chunk | None:
        drawn = self._draw()
        return None if drawn is None else _check_chunk(self.problem, drawn)

    def _rates(self) -> dict[str, Array]:
        """The learning rate of every weight, in a shape that broadcasts to the weight's."""
        problem = self.problem
        lr = np.asarray(self.lr)
        if lr.shape != (problem.trials,) or not np.all(np.isfinite(lr) & (lr >= 0)):
            raise ValueError(
                f"fit_online: the learning rates must be {problem.trials} numbers that are finite "
                f"and not negative, got {self.lr!r}"
            )
        unknown = [name for name in self.masks if name not in self.weights]
        if unknown:
            raise ValueError(
                f"fit_online: masks for {unknown}, but the weights are {list(self.weights)}"
            )
        rates = {}
        for name, weight in self.weights.items():
            rate = lr.reshape((-1,) + (1,) * (weight.ndim - 1))
            mask = self.masks.get(name)
            if mask is not None:
                try:
                    rate = rate * np.broadcast_to(np.asarray(mask, dtype=np.float64), weight.shape)
                except ValueError:
                    raise ValueError(
                        f"fit_online: the mask of {name} has shape {np.shape(mask)}, which cannot "
                        f"be broadcast to the weights' {weight.shape}"
                    ) from None
            rates[name] = rate.astype(problem.dtype)
        return rates


# ---------------------------------------------------------------------------------------------
# Refused at the door


def _either(names: Iterable[Any]) -> str:
    return " or ".join([repr(name) for name in names])


def _check_weights(cell: Cell, weights: Mapping[str, Array], block_size: int) -> dict[str, Any]:
    """What a `Problem` must know of the weights."""
    known = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", *cell.per_unit]
    known += ["readout_weight", "readout_bias"]
    needed = [name for name in known if "bias" not in name]
    missing = [name for name in needed if name not in weights]
    unknown = [name for name in weights if name not in known]
    if missing or unknown:
        raise ValueError(
            f"fit_online: the weights of cell {cell.name} are {known}, of which biases may be "
            f"missing; missing {missing}, unknown {unknown}"
        )
    for name, value in weights.items():
        if not isinstance(value, np.ndarray):
            raise TypeError(
                f"fit_online: {name} must be a NumPy array, which is trained in place, not "
                f"{type(value).__name__}"
            )
    dtypes = {value.dtype for value in weights.values()}
    if dtypes not in ({np.dtype(np.float32)}, {np.dtype(np.float64)}):
        raise TypeError(
            "fit_online: the weights must all be float32, or all float64; got "
            f"{sorted([str(dtype) for dtype in dtypes])}"
        )
    locked = [name for name, value in weights.items() if not value.flags.writeable]
    if locked:
        raise ValueError(f"fit_online: {locked} are read-only, and weights are trained in place")
    shape = {name: value.shape for name, value in weights.items()}
    for name in ("weight_ih", "weight_hh", "readout_weight"):
        empty = 0 in (shape[name][:2] if name == "weight_hh" else shape[name])
        if len(shape[name]) != 3 or empty:
            raise ValueError(
                f"fit_online: {name} must have three axes, of which the first is the trials' and "
                f"none is empty; got shape {shape[name]}"
            )
    K, rows, I = shape["weight_ih"]
    shared = len(cell.per_block)
    whole = (len(cell.gates) - shared) * block_size + shared  # rows of one block
    if rows % whole:
        raise ValueError(
            f"fit_online: weight_ih has {rows} rows, but with block_size = {block_size} the gates "
            f"{list(cell.gates)} have {whole} for each block"
        )
    H = rows // whole * block_size
    fed = sum([cell.width(name, H, block_size) for name in cell.fed])
    biases = sum([cell.width(gate, H, block_size) for gate in cell.biased])
    O, columns = shape["readout_weight"][1:]
    wanted: dict[str, tuple[int, ...]] = dict.fromkeys(cell.per_unit, (K, H))
    wanted |= {"weight_ih": (K, rows, I), "weight_hh": (K, rows, fed)}
    wanted |= {"bias_ih": (K, biases), "bias_hh": (K, biases)}
    wanted |= {"readout_weight": (K, O, H if columns == H else H + I), "readout_bias": (K, O)}
    wrong = [
        f"{name} is {shape[name]} instead of {wanted[name]}"
        for name in weights
        if shape[name] != wanted[name]
    ]
    if wrong:
        raise ValueError(
            f"fit_online: with K = {K} trials, I = {I} inputs, H = {H} units of cell {cell.name} "
            f"and O = {O} outputs, {'; '.join(wrong)}"
        )
    return {
        "trials": K,
        "inputs": I,
        "hidden": H,
        "fed": fed,
        "block_size": block_size,
        "outputs": O,
        "dtype": dtypes.pop(),
        "direct": columns != H,
    }


def _as_function(data: Draw | Iterable[Sequences]) -> Draw:
    if callable(data):
        return data
    if not isinstance(data, Iterable):
        raise TypeError(
            "fit_online: data must be a function that draws a chunk, or an iterable of chunks, "
            f"not {type(data).__name__}"
        )
    chunks = iter(data)
    return lambda: next(chunks, None)


def _check_chunk(problem: Problem, drawn: Any) -> Chunk:
    """A chunk in the drivers' form, or why it is none."""
    K, I = problem.trials, problem.inputs
    if not isinstance(drawn, tuple) or not 2 <= len(drawn) <= 4:
        what = f"{len(drawn)} values" if isinstance(drawn, tuple) else type(drawn).__name__
        raise TypeError(
            f"fit_online: a chunk must be Sequences(inputs, targets, lengths, mask), not {what}"
        )
    inputs, targets, lengths, mask = Sequences(*drawn)
    inputs = np.asarray(inputs)
    symbols = inputs.dtype.kind in "iu"
    form = "(K, N, T) integers" if symbols else f"(K, N, T, I = {I})"
    if inputs.ndim != (3 if symbols else 4) or not (symbols or inputs.shape[3] == I):
        raise ValueError(
            f"fit_online: inputs must be {form}; got shape {inputs.shape} of {inputs.dtype}"
        )
    if 0 in inputs.shape:
        raise ValueError(
            f"fit_online: a chunk has at least one sequence of one step; got inputs {inputs.shape}"
        )
    N, T = inputs.shape[1:3]
    _check_trials("inputs", inputs, K)
    if lengths is None:
        steps = np.full((K, N), T, np.int32)
    else:
        steps = np.asarray(lengths)
        if steps.dtype.kind not in "iu" or steps.ndim != 2 or steps.shape[1] != N:
            raise ValueError(
                f"fit_online: lengths must be (K, N = {N}) integers; "
                f"got shape {steps.shape} of {steps.dtype}"
            )
        _check_trials("lengths", steps, K)
        if steps.min() < 1 or steps.max() > T:
            raise ValueError(
                f"fit_online: lengths must be from 1 to T = {T}; got {steps.min()} to {steps.max()}"
            )
        steps = _own(np.broadcast_to(steps, (K, N)), np.int32)
    valid = np.arange(T) < steps[:, :, None]
    if symbols:
        _check_range("symbol", inputs, valid, I)
        inputs = np.where(valid, inputs, 0) if not valid.all() else inputs
        inputs = _own(inputs, np.int32)
    else:
        _check_floats("inputs", inputs)
        inputs = inputs if valid.all() else np.where(valid[..., None], inputs, 0)
        inputs = _own(inputs, problem.dtype)
    targets, used, last = _check_targets(problem, targets, mask, valid)
    return Chunk(inputs, targets, steps, used, last)


def _check_targets(
    problem: Problem, targets: Any, mask: Any, valid: Array
) -> tuple[Array, Array, bool]:
    """The targets in the drivers' form, which of them there are, whether at last steps only."""
    (K, N, T), O = valid.shape, problem.outputs
    targets = np.asarray(targets)
    classes = targets.dtype.kind in "iu"
    if not classes:
        _check_floats("targets", targets)
    axes = targets.shape if classes else targets.shape[:-1]
    if axes[1:] not in ((N,), (N, T)) or not (classes or targets.shape[-1] == O):
        form = "integers (K, N) or (K, N, T)" if classes else "(K, N, O) or (K, N, T, O)"
        raise ValueError(
            f"fit_online: targets must be {form} with N = {N}, T = {T}, O = {O}; "
            f"got shape {targets.shape} of {targets.dtype}"
        )
    _check_trials("targets", targets, K)
    last = len(axes) == 2
    if last:
        if mask is not None:
            raise ValueError(
                "fit_online: a mask chooses among the steps, but these targets have no axis T; "
                "they belong to the last step of each sequence"
            )
        targets, used = np.expand_dims(targets, 2), np.ones((K, N, 1), bool)
    else:
        used = valid
        if mask is not None:
            mask = np.asarray(mask)
            if mask.dtype != bool or mask.ndim != 3 or mask.shape[1:] != (N, T):
                raise ValueError(
                    f"fit_online: the mask must be (K, N = {N}, T = {T}) truths; "
                    f"got shape {mask.shape} of {mask.dtype}"
                )
            _check_trials("mask", mask, K)
            used = valid & mask
    if classes:
        _check_range("class", targets, used, O)
        targets = np.where(used, targets, 0).astype(np.int32)
    else:
        targets = _own(targets, problem.dtype)
    return targets, np.ascontiguousarray(used), last


def _own(array: Array, dtype: Any) -> Array:
    """In the order of its axes and not read-only: what compiled loops take."""
    return np.require(array, dtype, ["C_CONTIGUOUS", "WRITEABLE"])


def _check_trials(what: str, array: Array, trials: int) -> None:
    if array.shape[0] not in (1, trials):
        raise ValueError(
            f"fit_online: the first axis of {what} is the trials', K = {trials} or 1 if all see "
            f"the same; got shape {array.shape}"
        )


def _check_floats(what: str, array: Array) -> None:
    if array.dtype.kind != "f":
        raise TypeError(f"fit_online: {what} must be floats or integers, got {array.dtype}")


def _check_range(what: str, array: Array, used: Array, count: int) -> None:
    wrong = used & ((array < 0) | (array >= count))
    if wrong.any():
        k, n, t = np.argwhere(wrong)[0].tolist()
        value = np.broadcast_to(array, wrong.shape)[k, n, t]
        raise ValueError(
            f"fit_online: {what} {value} of trial {k}, sequence {n}, step {t} is not one of "
            f"0, ..., {count - 1}"
        )
