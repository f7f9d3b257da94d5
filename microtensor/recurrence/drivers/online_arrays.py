"""Online learning on arrays: the array driver with the trials in the place of the batch.

Sizes: K trials, T steps, I inputs, H hidden units, O outputs, M rows of products. Every trial has
weights of its own, so the product of a step is K small ones, by one call of `matmul`: the weights
are kept as (K, [h; x; 1], M), of which forward and backward each take a view. The cell itself, its
Jacobian and the loop backward are the printed sources of arrays.py.

What a trial computes must not depend, not even in the last bit, on the trials beside it. So each
sum over time goes in blocks whose length is fixed, and never through an operation that takes
another way for another K; a trial alone gets an idle neighbour.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from microtensor.backend import Array
from microtensor.recurrence.drivers.arrays import Back, Plan, Sizes

BLOCK = 32  # steps that are walked, and summed, at once


class Judged(NamedTuple):
    """What a loss says of outputs (K, S, O)."""

    outputs: Array
    loss: Array  # (K,)
    worst: Array  # (K,)
    d: Array  # dE / d net, (K, S, O)


def judge(problem: Any, net: Array, targets: Array, used: Array) -> Judged:
    """Outputs, loss and its gradient; `used` (K, S) are the steps that count."""
    there = used[:, :, None]
    if problem.output == "linear":
        y = net
    elif problem.output == "sigmoid":
        y = 0.5 * np.tanh(0.5 * net) + 0.5
    else:
        top = net - _over_outputs(np.maximum, net)
        e = np.exp(top)
        total = _over_outputs(np.add, e)
        y = e / total
    error = np.where(there, y - targets, 0)
    if problem.loss == "squared_error":
        losses, d = 0.5 * error * error, error
        if problem.output == "sigmoid":
            d = error * y * (1 - y)
        elif problem.output == "softmax":
            d = y * (error - _over_outputs(np.add, error * y))
    elif problem.output == "sigmoid":
        losses = np.maximum(net, 0) - net * targets + np.log1p(np.exp(-np.abs(net)))
        d = error
    else:
        losses = targets * (np.log(total) - top)
        d = y * _over_outputs(np.add, targets) - targets
    losses, d = np.where(there, losses, 0), np.where(there, d, 0)
    loss = _over_outputs(np.add, losses)[:, :, 0]
    loss = np.add.accumulate(loss, axis=1)[:, -1]  # one by one, however many there are
    return Judged(np.where(there, y, 0), loss, np.abs(error).max(axis=(1, 2)), d)


def _over_outputs(reduce: Any, values: Array) -> Array:
    """A reduction over the last axis, which stays, in the order of the outputs."""
    return reduce.accumulate(values, axis=-1)[..., -1:]


class Products:
    """The product of one step after the other, as the printed loops ask for it."""

    def __init__(
        self,
        weights: Iterable[Array],
        views: Iterable[tuple[Array, Array]],
        more: Iterable[Array] | None = None,
    ) -> None:
        self.weight, self.views = iter(weights).__next__, iter(views).__next__
        self.more = None if more is None else iter(more).__next__

    def __call__(self, _: Array, out: Array) -> None:
        """The next product, and what is added to it."""
        vector, result = self.views()
        np.matmul(self.weight(), vector, result)
        if self.more is not None:
            np.add(out, self.more(), out)


class Online:
    """The driver for one problem; its buffers grow with the longest sequence that was met."""

    def __init__(self, problem: Any) -> None:
        self.problem, self.program = problem, problem.cell.program
        self.trials = max(2, problem.trials)  # alone, products would take another way
        self._buffers: dict[tuple[bool, bool], Buffers] = {}

    def run(self, weights: dict[str, Array], rates: dict[str, Array], chunk: Any) -> Any:
        """Train on a chunk, in place; `rates` broadcast to the weights.

        Returns loss (K, N), worst (K, N), and outputs (K, N, S, O) or None.
        """
        if len(chunk.lengths) < self.trials:
            return self._beside_an_idle_one(weights, rates, chunk)
        symbols = chunk.inputs.ndim == 3
        N, T = chunk.inputs.shape[1:3]
        padded = bool(chunk.lengths.min() < T)
        buffers = self._buffers.get((symbols, padded))
        if buffers is None or buffers.capacity < T:
            buffers = Buffers(self.problem, self.trials, T, symbols, padded)
            self._buffers[symbols, padded] = buffers
        rates = {n: np.broadcast_to(rate, weights[n].shape) for n, rate in rates.items()}
        lesson = Lesson(self.problem, buffers, weights, rates, chunk)
        with np.errstate(over="ignore", invalid="ignore"):  # one that diverges disturbs no other
            for n in range(N):
                lesson.sequence(n)
        return lesson.loss, lesson.worst, lesson.outputs

    def _beside_an_idle_one(self, weights: Any, rates: Any, chunk: Any) -> Any:
        """The same for a trial that is alone."""
        both = {name: np.repeat(value, 2, 0) for name, value in weights.items()}
        rates = {name: np.concatenate([rate, 0 * rate]) for name, rate in rates.items()}
        lengths, used = np.repeat(chunk.lengths, 2, 0), np.repeat(chunk.used, 2, 0)
        found = self.run(both, rates, chunk._replace(lengths=lengths, used=used))
        for name, value in weights.items():
            value[...] = both[name][:1]
        return tuple([None if value is None else value[:1] for value in found])


class Buffers:
    """What one set of sizes needs: a plan, whose batch are the trials, and views into it."""

    def __init__(self, problem: Any, trials: int, steps: int, symbols: bool, padded: bool) -> None:
        program, H, dtype = problem.cell.program, problem.hidden, problem.dtype
        I = 0 if symbols else problem.inputs
        T = self.capacity = -(-steps // BLOCK) * BLOCK
        sizes = Sizes(
            program, np, dtype, T, trials, I, H, problem.block_size, True, False, padded, True
        )
        plan = self.plan = Plan(program, sizes)
        for array in (plan.gates, plan.values):
            array[...] = 0
        for name in plan.units:
            plan.units[name] = np.empty((H, trials), dtype)
            plan.space[program.names[name]] = plan.apart(plan.units[name], False)
        self.length = T if problem.steps else BLOCK
        self.back = Back(plan, False, self.length)
        self.way = self.back.way(plan, output=True)
        self.forward = np.zeros((trials, plan.features, len(plan.weight)), dtype)
        self.dz = np.zeros((trials, T, self.back.gates.stop - self.back.gates.start), dtype)
        self.seen = np.zeros((trials, T, plan.features), dtype)
        self.cotangent = np.zeros((T, H, trials), dtype)
        self.products = [
            (self._vectors(plan.hx[t]), self._vectors(plan.gates[t % len(plan.gates)]))
            for t in range(T)
        ]
        back = self.back
        self.back_products = [
            (self._vectors(back.rows[k, back.low : back.high]), self._vectors(back.dhx[k]))
            for k in range(self.length)
        ]
        self._steps: dict[int, list[tuple[Any, ...]]] = {}

    @staticmethod
    def _vectors(value: Array) -> Array:
        """(..., K) as K column vectors: a view."""
        return value.reshape(-1, value.shape[-1]).T[:, :, None]

    def back_steps(self, start: int, stop: int) -> list[tuple[Any, ...]]:
        """The steps of a block, the last one first."""
        found = self._steps.get(start)
        if found is None:
            found = self.back.steps_of(self.plan, self.way, start, start + self.length)
            self._steps[start] = found
        return found[self.length - (stop - start) :]

    def evaluate(self, start: int, stop: int, at: int) -> None:
        """The Jacobian of some steps, put at a place in its block."""
        self.back.jacobian_of(*self.back.jacobian_views(self.plan, start, stop, at))


class Lesson:
    """One chunk for K trials."""

    def __init__(
        self,
        problem: Any,
        buffers: Buffers,
        weights: dict[str, Array],
        rates: dict[str, Array],
        chunk: Any,
    ) -> None:
        self.problem, self.buffers, self.chunk = problem, buffers, chunk
        self.weights, self.rates = weights, rates
        self.plan, self.program = buffers.plan, problem.cell.program
        self.every = np.arange(len(chunk.lengths))
        self.symbols = chunk.inputs if chunk.inputs.ndim == 3 else None
        self.train = any(rate.any() for rate in rates.values())
        K, N, S = chunk.used.shape
        self.loss = np.zeros((K, N), problem.dtype)
        self.worst = np.zeros((K, N), problem.dtype)
        shape = (K, N, S, problem.outputs)
        self.outputs = np.zeros(shape, problem.dtype) if problem.keep else None
        self._load()

    # -- weights

    def _load(self) -> None:
        """The weights as the products need them: transposed, in the rows' order."""
        buffers, plan, H = self.buffers, self.plan, self.problem.hidden
        F = plan.F
        w_ih, w_hh = self.weights["weight_ih"], self.weights["weight_hh"]
        b_ih, b_hh = self.weights.get("bias_ih"), self.weights.get("bias_hh")
        forward = buffers.forward
        K, I = w_ih.shape[0], w_ih.shape[2]
        if self.symbols is not None:
            self.table = np.zeros((K, I, forward.shape[2]), forward.dtype)
        for rows, theirs, of_biases, kind in plan.forward_runs:
            if kind != "x":
                forward[:, :F, rows] = w_hh[:, theirs].transpose(0, 2, 1)
            if kind != "h":
                target = forward[:, F:-1] if self.symbols is None else self.table
                target[:, :, rows] = w_ih[:, theirs].transpose(0, 2, 1)
            forward[:, -1, rows] = 0
            for bias, other in ((b_ih, "h"), (b_hh, "x")):
                if bias is not None and of_biases is not None and kind != other:
                    forward[:, -1, rows] += bias[:, of_biases]
        halved = plan.halved
        forward[:, :, halved] *= 0.5
        if self.symbols is not None:
            self.table[:, :, halved] *= 0.5
        for name, unit in plan.units.items():
            unit[...] = self.weights[name].T
        back = buffers.back
        self.backward = np.zeros((K, back.F, back.high - back.low), forward.dtype)
        for columns, theirs, kind in back.columns:
            if kind != "x" and back.F:
                self.backward[:, :, columns] = w_hh[:, theirs].transpose(0, 2, 1)
        readout = self.weights["readout_weight"]
        bias = self.weights.get("readout_bias")
        if bias is None:
            bias = np.zeros(readout.shape[:2], readout.dtype)
        inputs = readout[:, :, H:] if self.symbols is None else readout[:, :, :0]
        self.readout = np.concatenate([readout[:, :, :H], inputs, bias[:, :, None]], axis=2)

    def _descend(self, name: str, theirs: slice | None, gradient: Array) -> None:
        weight = self.weights.get(name)
        if weight is not None and theirs is not None:
            weight[:, theirs] -= self.rates[name][:, theirs] * gradient

    # -- one sequence

    def sequence(self, n: int) -> None:
        """Show a sequence to every trial, and change the weights."""
        buffers, plan, chunk = self.buffers, self.plan, self.chunk
        lengths = chunk.lengths[:, n]
        T = int(lengths.max())
        if self.symbols is None:
            plan.hx[:T, plan.F : -1] = chunk.inputs[:, n, :T].transpose(1, 2, 0)
        if plan.over is not None:
            plan.over[:T] = np.arange(T)[:, None] >= lengths
            buffers.back.padding[:T, 0] = plan.over[:T]
            np.subtract(1, buffers.back.padding[:T], out=buffers.back.valid[:T])
        if self.problem.steps:
            self._step_by_step(n, T)
            return
        self._forward(n, 0, T)
        if chunk.last:
            d, gradient = self._read(n, lengths - 1, chunk.used[:, n], 1)
        else:
            d, gradient = self._read(n, np.arange(T)[None], chunk.used[:, n, :T], BLOCK)
        if self.train:
            cotangent = buffers.cotangent[:T]
            if chunk.last:
                cotangent[...] = 0
                cotangent[lengths - 1, :, self.every] = d[:, 0]
            else:
                cotangent[...] = d.transpose(1, 2, 0)
            self._learn(n, T, itertools.repeat(self.backward), gradient)

    def _step_by_step(self, n: int, T: int) -> None:
        """The same with an update after every step that has a target."""
        chunk, buffers = self.chunk, self.buffers
        history = []  # the recurrent weights of every step so far
        for t in range(T):
            self._forward(n, t, t + 1)
            buffers.evaluate(t, t + 1, at=t)
            history.append(self.backward)
            used = chunk.lengths[:, n] == t + 1 if chunk.last else chunk.used[:, n, t]
            if used.any():
                d, gradient = self._read(n, np.array([[t]]), used[:, None], 1)
                if self.train:
                    buffers.cotangent[:t] = 0
                    buffers.cotangent[t] = d[:, 0].T
                    self._learn(n, t + 1, reversed(history), gradient)

    def _forward(self, n: int, start: int, stop: int) -> None:
        more = None
        if self.symbols is not None:
            rows = self.table[self.every[:, None], self.symbols[:, n, start:stop]]
            more = np.ascontiguousarray(rows.transpose(1, 2, 0))
        weight = self.buffers.forward.transpose(0, 2, 1)
        products = Products(itertools.repeat(weight), self.buffers.products[start:stop], more)
        self.plan.forward(self.plan.steps[start:stop], products)

    def _read(self, n: int, steps: Array, used: Array, block: int) -> tuple[Array, Array]:
        """The readout at some steps (K or 1, S), and their loss.

        Returns dE/dh (K, S, H) and the gradient of the readout (K, O, H + I + 1). Products take
        `block` steps at once, however many there are.
        """
        problem, chunk, hx, H = self.problem, self.chunk, self.plan.hx, self.problem.hidden
        h = self.plan.state[problem.cell.state[0]]
        K, S = used.shape
        if steps.ndim == 1:
            steps = steps[:, None]
        at = steps, slice(None), self.every[:, None]
        whole = -(-S // block) * block
        seen = np.zeros((K, whole, self.readout.shape[2]), hx.dtype)
        seen[:, :S, :H] = h[at[0] + 1, :, at[2]]
        if seen.shape[2] > H + 1:
            seen[:, :S, H:-1] = hx[at[0], self.plan.F : -1, at[2]]
        seen[:, :S, -1] = 1
        seen = seen.reshape(K, -1, block, seen.shape[2])
        net = np.matmul(seen, self.readout.transpose(0, 2, 1)[:, None])
        net = net.reshape(K, whole, -1)[:, :S]
        symbol = None
        if problem.direct and self.symbols is not None:
            shown = self.symbols[:, n]
            symbol = shown[np.arange(len(shown))[:, None], steps]
            from_inputs = self.weights["readout_weight"][:, :, H:].transpose(0, 2, 1)
            net = net + from_inputs[self.every[:, None], symbol]
        first = 0 if chunk.last else steps[0, 0]
        targets = chunk.targets[:, n, first : first + S]
        if targets.ndim == 2:
            targets = (targets[:, :, None] == np.arange(problem.outputs)).astype(net.dtype)
        judged = judge(problem, net, targets, used)
        self.loss[:, n] += judged.loss
        np.maximum(self.worst[:, n], judged.worst, out=self.worst[:, n])
        if self.outputs is not None:
            self.outputs[:, n, first : first + S] += judged.outputs
        d = np.zeros((K, whole, problem.outputs), net.dtype)
        d[:, :S] = judged.d
        d = d.reshape(K, -1, block, problem.outputs)
        dh = np.matmul(d, np.ascontiguousarray(self.readout[:, None, :, :H]))
        shares = np.matmul(np.ascontiguousarray(d.transpose(0, 1, 3, 2)), seen)
        gradient = _in_turn(shares)
        if symbol is not None:
            found = np.zeros((K, problem.inputs, problem.outputs), net.dtype)
            for s in range(S):
                found[self.every, np.broadcast_to(symbol, (K, S))[:, s]] += judged.d[:, s]
            gradient = np.concatenate(
                [gradient[:, :, :H], found.transpose(0, 2, 1), gradient[:, :, H:]], axis=2
            )
        return dh.reshape(K, whole, H)[:, :S], gradient

    def _learn(self, n: int, T: int, weights: Iterator[Array], of_readout: Array) -> None:
        """Walk back from step T - 1, and change the weights."""
        plan, program = self.plan, self.program
        buffers, back = self.buffers, self.buffers.back
        C, rows = buffers.length, back.rows
        starts = range((T - 1) // C * C, -1, -C)
        for name in program.cell.state:
            back.own[name][T - starts[0]] = 0
        flowing = []
        for name, d in zip(program.carried, back.start, strict=True):
            d[...] = 0
            flowing.append(plan.apart(d, name in program.cell.of_blocks))
        units = {name: np.zeros(unit.shape, rows.dtype) for name, unit in plan.units.items()}
        for start in starts:
            stop = min(T, start + C)
            size = stop - start
            if not self.problem.steps:
                buffers.evaluate(start, stop, at=0)
            back.cotangent[:size] = buffers.cotangent[start:stop]
            products = Products(weights, buffers.back_products[size - 1 :: -1])
            steps = buffers.back_steps(start, stop)
            times = slice(start, stop)
            flowing = back.walk(plan, buffers.way, steps, times, flowing, products)
            buffers.dz[:, start:stop] = rows[:size, back.gates].transpose(2, 0, 1)
            for name, total in units.items():
                total += np.add.reduce(back.own[name][:size], 0)
            back.flush(plan, 0, flowing)
            if start:
                back.hand_over(plan, size, flowing)
        self._update(n, T, units, of_readout)

    def _update(self, n: int, T: int, units: dict[str, Array], of_readout: Array) -> None:
        buffers, F = self.buffers, self.plan.F
        whole = -(-T // BLOCK) * BLOCK
        dz, seen = buffers.dz[:, :whole], buffers.seen[:, :whole]
        seen[:, :T] = self.plan.hx[:T].transpose(2, 0, 1)
        for part in (dz, seen):  # both: a number that is none would stay one beside a zero
            part[:, T:] = 0
        K = len(seen)
        shares = np.matmul(
            dz.reshape(K, -1, BLOCK, dz.shape[2]).transpose(0, 1, 3, 2),
            seen.reshape(K, -1, BLOCK, seen.shape[2]),
        )
        total = _in_turn(shares)
        of_symbols = None
        if self.symbols is not None:
            of_symbols = np.zeros((K, self.problem.inputs, dz.shape[2]), dz.dtype)
            shown = np.broadcast_to(self.symbols[:, n, :T], (K, T))
            for t in range(T):
                of_symbols[self.every, shown[:, t]] += dz[:, t]
        for rows, theirs, of_biases, kind in self.plan.backward_runs:
            if kind != "x":
                self._descend("weight_hh", theirs, total[:, rows, :F])
                self._descend("bias_hh", of_biases, total[:, rows, -1])
            if kind != "h":
                found = total[:, rows, F:-1]
                if of_symbols is not None:
                    found = of_symbols[:, :, rows].transpose(0, 2, 1)
                self._descend("weight_ih", theirs, found)
                self._descend("bias_ih", of_biases, total[:, rows, -1])
        for name, gradient in units.items():
            self._descend(name, slice(None), gradient.T)
        self._descend("readout_weight", slice(None), of_readout[:, :, :-1])
        self._descend("readout_bias", slice(None), of_readout[:, :, -1])
        self._load()


def _in_turn(shares: Array) -> Array:
    """The sum over blocks (K, blocks, ...), one after the other."""
    total = shares[:, 0].copy()
    for b in range(1, shares.shape[1]):
        total += shares[:, b]
    return total
