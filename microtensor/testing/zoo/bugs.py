"""The bugs, with hints and solutions. If you are here to hunt, stop reading now.

Each is a small edit of a module of the library, or of specimens.py, and a program that meets it.
`check_grads` and `check_optimizer`, with their default arguments, must find every one, at every
seed: so this list is also the test of the tests (tests/testing/test_zoo.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from microtensor.testing.planting import Edit
from microtensor.testing.zoo import programs, specimens
from microtensor.testing.zoo.entries import Entry

__all__ = ["ENTRIES"]

_ELEMENTWISE = "microtensor.ops.elementwise"
_ENGINE = "microtensor.engine"
_INDEXED = "microtensor.indexed"
_LINALG = "microtensor.ops.linalg"
_LOSS = "microtensor.ops.loss"
_PIECEWISE = "microtensor.ops.piecewise"
_RECURRENT = "microtensor.nn.recurrent"
_REDUCTION = "microtensor.ops.reduction"
_SHAPE = "microtensor.ops.shape"
_SPECIMENS = "microtensor.testing.zoo.specimens"


def _sequence(rng: np.random.Generator) -> dict[str, Any]:
    """Three steps of two sequences, one number each, and an initial state of two units."""
    return {
        "x": rng.normal(size=(3, 2, 1)).round(2),
        "state": rng.normal(size=(1, 2, 2)).round(2),
    }


def _step_by_hand(rng: np.random.Generator) -> dict[str, Any]:
    """Three sequences, two units."""
    return {name: rng.normal(size=(3, n)).round(2) for name, n in (("rows", 8), ("c", 2))}


def _lstm_by_hand(rng: np.random.Generator) -> dict[str, Any]:
    """T = 3, B = 2, I = 1, H = 1: as little as shows the way through time."""
    shapes: dict[str, tuple[int, ...]] = {
        "x": (3, 2, 1),
        "h": (2, 1),
        "c": (2, 1),
        "w_ih": (4, 1),
        "w_hh": (4, 1),
        "bias": (4,),
    }
    return {name: rng.normal(size=shape).round(2) for name, shape in shapes.items()}


def _fixed(**arrays: Any) -> Any:
    """Inputs that do not depend on the seed: numbers one can compute with in one's head."""
    made = {name: np.array(values) for name, values in arrays.items()}
    return lambda rng: {name: array.copy() for name, array in made.items()}


ENTRIES: tuple[Entry, ...] = (
    # ---------------------------------------------------------------------------------- scale
    Entry(
        kind="scale",
        title="A square",
        program=programs.squares,
        inputs=_fixed(x=[1.0, -2.0, 0.5]),
        edits=(Edit(_ELEMENTWISE, "lambda g, x: g * 2 * x", "lambda g, x: g * x"),),
        verdict="wrong_gradient",
        cause="scale",
        hints=(
            "Look at the ratio that the message gives. Is it the same for every number?",
            "What is the derivative of x * x, by the product rule?",
            "bug.explain() prints the rule of `square`. Compare it with your answer.",
        ),
        solution="ops/elementwise.py: the rule of `square` was `g * x`, and must be `g * 2 * x`. "
        "x is used twice in x * x, and each use contributes g * x. One of them was forgotten, so "
        "every derivative was half of what it should be: a wrong gradient with the ratio 0.5.",
    ),
    Entry(
        kind="scale",
        title="The average of each row",
        program=programs.mean_of_rows,
        inputs=_fixed(x=[[1.0, 2.0, 6.0], [-3.0, 0.5, 1.0]]),
        edits=(
            Edit(
                _REDUCTION,
                "_spread(g / _count(shape, axis), shape, axis)",
                "_spread(g, shape, axis)",
            ),
        ),
        verdict="wrong_gradient",
        cause="scale",
        hints=(
            "The ratio is a whole number. Where does it come from?",
            "There are three numbers in a row. If one of them grows by 1, how much does the mean "
            "grow?",
            "The forward pass divides. Does the backward pass?",
        ),
        solution="ops/reduction.py: the rule of `mean` spread the cotangent over the row and did "
        "not divide it by the number of elements, `g / _count(shape, axis)`. Each of n numbers "
        "moves their mean by 1/n; the gradient was that of the sum, and the ratio n = 3.",
    ),
    Entry(
        kind="scale",
        title="The loss of a batch",
        program=programs.classifier_loss,
        inputs=_fixed(logits=[[1.0, 0.5], [-1.0, 2.0], [0.25, 0.0]], labels=[0, 0, 1]),
        edits=(Edit(_LOSS, "scale = g.reshape(-1) * weights", "scale = g.reshape(-1)"),),
        verdict="wrong_gradient",
        cause="scale",
        hints=(
            "Would the ratio be the same with four rows in the batch?",
            "The loss is a mean over the batch. The forward pass multiplies each row's loss by a "
            "weight, 1/N, and adds up.",
            "Read `_cross_entropy_rule` in microtensor/ops/loss.py: what does it do with "
            "`weights`?",
        ),
        solution="ops/loss.py: `scale` in `_cross_entropy_rule` was `g.reshape(-1)`, without the "
        "factor `weights`, which holds 1/N (and the classes' weights). The gradient was that of "
        "the summed loss, N = 3 times too large. Training would go on with a learning rate that "
        "grows with the batch: a bug that nobody sees.",
    ),
    Entry(
        kind="scale",
        title="The greater of two, and a draw",
        program=programs.greater_of_two,
        inputs=_fixed(a=[1.0, 3.0, -2.0], b=[2.0, 3.0, -5.0]),
        edits=(
            Edit(
                _PIECEWISE,
                "where(equal(a, b), g * 0.5, g * a_wins)",
                "where(equal(a, b), g, g * a_wins)",
            ),
        ),
        verdict="kink",
        hints=(
            "Only one place is wrong. What is special about it?",
            "Let both arguments grow by 1 where they are equal. By how much does the greater grow? "
            "What do both gradients together say?",
            "Read `_share` in microtensor/ops/piecewise.py.",
        ),
        solution="ops/piecewise.py: where both arguments are equal, `_share` gave the whole "
        "cotangent to each, and must give half of it, `g * 0.5`. At such a kink there are many "
        "right answers, but this was none: if both arguments grow by 1 the greater grows by 1, and "
        "the gradients said 2. Hence the verdict: a kink, with a gradient outside of what the "
        "one-sided derivatives allow.",
    ),
    # ----------------------------------------------------------------------------------- sign
    Entry(
        kind="sign",
        title="Prediction minus target",
        program=programs.errors,
        inputs=_fixed(prediction=[0.5, 2.0], target=[1.0, -1.0]),
        edits=(
            Edit(
                _ELEMENTWISE,
                'subtract.vjp("b", lambda g: -g)',
                'subtract.vjp("b", lambda g: g)',
            ),
        ),
        verdict="wrong_gradient",
        cause="sign",
        hints=(
            "Only one of the two inputs is wrong. Which one, and what is the ratio?",
            "If the target grows, does the difference grow?",
        ),
        solution="ops/elementwise.py: the rule of `subtract` for its second argument was `g`, and "
        "must be `-g`. The ratio was -1. As long as targets are constants nobody asks for this "
        "derivative: such a bug sleeps until somebody subtracts two predictions.",
    ),
    Entry(
        kind="sign",
        title="A cosine",
        program=programs.cosines,
        inputs=_fixed(x=[0.5, -1.0, 2.0]),
        edits=(Edit(_ELEMENTWISE, "-g * sin(x)", "g * sin(x)"),),
        verdict="wrong_gradient",
        cause="sign",
        hints=(
            "All ratios are alike.",
            "Just right of 0, does the cosine rise or fall?",
        ),
        solution="ops/elementwise.py: the rule of `cos` was `g * sin(x)`, and must be "
        "`-g * sin(x)`. The gradient pointed the other way everywhere, so the ratio was -1 "
        "everywhere.",
    ),
    Entry(
        kind="sign",
        title="The absolute value",
        program=programs.magnitudes,
        inputs=_fixed(x=[1.5, -0.5, 2.0, -3.0]),
        edits=(Edit(_PIECEWISE, "lambda g, x: g * sign(x)", "lambda g, x: g"),),
        verdict="wrong_gradient",
        cause="sign",
        hints=(
            "Not every number is wrong. Which ones are?",
            "Draw |x|. What is its slope on the left?",
        ),
        solution="ops/piecewise.py: the rule of `abs` was `g`, without the factor `sign(x)`: "
        "right for positive numbers, and of the wrong sign for negative ones. A test that draws "
        "positive numbers only would not have seen it.",
    ),
    Entry(
        kind="sign",
        title="A yes-or-no question",
        program=programs.score_against_target,
        inputs=_fixed(score=[0.5, -2.0], target=[0.25, 0.75]),
        edits=(Edit(_LOSS, "reduction: -_each(g, x.shape, reduction) * x", "reduction: g * x"),),
        verdict="wrong_gradient",
        cause="sign",
        hints=(
            "One input is right.",
            "The loss is log(1 + e^x) - x * target. How does it change with the target?",
        ),
        solution="ops/loss.py: the rule of `_bce_with_logits` for the target was `g * x`, and must "
        "be `-g * x`. Only who learns targets too, as in distillation, would ever have met it.",
    ),
    # ------------------------------------------------------------------------------ broadcast
    Entry(
        kind="broadcast",
        title="A dense layer by hand: the bias",
        program=specimens.dense,
        inputs=_fixed(
            x=[[1.0, -0.5], [0.25, 2.0], [-1.0, 0.5]],
            weight=[[0.5, -1.0], [0.25, 0.75]],
            bias=[0.1, -0.2],
        ),
        vjp=specimens.dense_backward,
        edits=(Edit(_SPECIMENS, "slope.T @ x, slope.sum(axis=0)", "slope.T @ x, slope"),),
        verdict="shape",
        cause="broadcast",
        hints=(
            "Compare the shapes: the bias, and its gradient.",
            "The bias is one row, and is added to every row of the batch. How often is each of its "
            "numbers used?",
        ),
        solution="specimens.py: `dense_backward` returned `slope`, one row for each row of the "
        "batch, as the gradient of the bias. Each number of the bias is used in every row, and "
        "what is used N times receives N contributions, to be added up: `slope.sum(axis=0)`. "
        "The gradient did not even have the shape of the bias, and that is the verdict.",
    ),
    Entry(
        kind="broadcast",
        title="A layer in the library: the bias",
        program=programs.layer,
        inputs=_fixed(
            x=[[1.0, -0.5], [0.25, 2.0], [-1.0, 0.5]],
            weight=[[0.5, -1.0], [0.25, 0.75]],
            bias=[0.1, -0.2],
        ),
        edits=(Edit(_LINALG, "ones.fill(1)", "ones.fill(1 / flat.shape[0])"),),
        verdict="wrong_gradient",
        cause="scale",
        hints=(
            "The shape is right this time. What is the ratio, and how many rows are there?",
            "What is used N times receives N contributions. They are added, not ...",
            "Read `_column_sums` in microtensor/ops/linalg.py.",
        ),
        solution="ops/linalg.py: `_column_sums` multiplied by 1/N instead of 1: the contributions "
        "of the rows were averaged, and must be added. If the loss is a mean over the batch, its "
        "cotangents are small already; dividing again makes the bias learn N times too slowly, and "
        "everything else at the right speed.",
    ),
    Entry(
        kind="broadcast",
        title="Attention weights",
        program=programs.attention_weights,
        inputs=_fixed(scores=[[1.0, 0.5, -1.0], [0.0, 2.0, 0.25]]),
        edits=(
            Edit(
                _REDUCTION,
                "out * (g - sum(g * out, axis=axis, keepdims=True))",
                "out * (g - g * out)",
            ),
        ),
        verdict="wrong_gradient",
        hints=(
            "If one score grows, which of the weights change?",
            "Each weight is divided by the same sum over the row: every score meets every weight.",
            "The rule as it is now is that of a sigmoid. What does it leave out?",
        ),
        solution="ops/reduction.py: the rule of `softmax` was `out * (g - g * out)`, which is "
        "only the diagonal of its Jacobian: how each weight changes with its own score. The "
        "denominator is shared by the whole row, so its contributions must be summed over the row "
        "before they go back: `out * (g - sum(g * out, axis))`.",
    ),
    Entry(
        kind="broadcast",
        title="Rows and columns by hand",
        program=specimens.grid,
        inputs=_fixed(rows=[0.5, -1.0, 0.25], columns=[1.0, 0.0, -0.5]),
        vjp=specimens.grid_backward,
        edits=(
            Edit(
                _SPECIMENS,
                "slope.sum(axis=1), slope.sum(axis=0)",
                "slope.sum(axis=0), slope.sum(axis=1)",
            ),
        ),
        verdict="wrong_gradient",
        cause="exchanged",
        hints=(
            "The shapes are right. Would they be with four columns?",
            "rows[i] is used all along row i. Which axis runs along a row?",
        ),
        solution="specimens.py: `grid_backward` summed over axis 0 for the rows and over axis 1 "
        "for the columns, and it must be the other way round: rows[i] is used at (i, 0), (i, 1), "
        "..., so its contributions lie along axis 1. Each input had the gradient of the other. "
        "With as many rows as columns no shape gave it away: test with sizes that differ.",
    ),
    Entry(
        kind="broadcast",
        title="An LSTM by hand: the bias",
        program=specimens.lstm,
        inputs=_lstm_by_hand,
        vjp=specimens.lstm_backward,
        edits=(Edit(_SPECIMENS, "db += slopes.sum(axis=0)", "db = slopes.sum(axis=0)"),),
        verdict="wrong_gradient",
        hints=(
            "Only the bias is wrong, in all its numbers.",
            "The bias is used for every sequence, and at every step.",
            "What of the loop's earlier rounds is left in `db` at its end?",
        ),
        solution="specimens.py: the loop over time in `lstm_backward` set `db`, and must add to "
        "it, `+=`. The bias is used at every step, so it receives a contribution from each; what "
        "was left is that of the first step, which is the last one the loop visits.",
    ),
    # -------------------------------------------------------------------------- transposition
    Entry(
        kind="transposition",
        title="A product of two square matrices",
        program=programs.product,
        inputs=_fixed(a=[[1.0, 2.0], [0.5, -1.0]], b=[[0.5, -1.5], [3.0, 0.25]]),
        edits=(Edit(_LINALG, "return g @ b.swapaxes(-1, -2)", "return g @ b"),),
        verdict="wrong_gradient",
        hints=(
            "Only the first factor is wrong.",
            "Write the shapes down for a (n, k) and b (k, m), with n, k and m different. What must "
            "be multiplied to come from (n, m) to (n, k)?",
        ),
        solution="ops/linalg.py: the rule of `matmul` for a was `g @ b`, and must be `g @ b^T`. "
        "With square matrices both have the right shape. With others NumPy would have refused: "
        "test with sizes that differ.",
    ),
    Entry(
        kind="transposition",
        title="A cube, turned",
        program=programs.turned,
        inputs=_fixed(x=[[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]),
        edits=(Edit(_SHAPE, "_transpose(g, axes=inverse(axes))", "_transpose(g, axes=axes)"),),
        verdict="wrong_gradient",
        cause="transpose",
        hints=(
            "Nothing is computed here, numbers only move. So a gradient that is wrong stands in "
            "the wrong place.",
            "For a matrix the rule would be right. What is different with three axes?",
            "Turn a cube once, and again in the same direction. Is it back?",
        ),
        solution="ops/shape.py: the rule of `transpose` moved the axes of the cotangent in the "
        "same order again, and must undo it, `inverse(axes)`. Exchanging two axes is its own "
        "inverse; moving three axes in a circle is not.",
    ),
    Entry(
        kind="transposition",
        title="A layer with as many outputs as inputs",
        program=programs.layer_without_bias,
        inputs=_fixed(
            x=[[1.0, -0.5], [0.25, 2.0], [-1.0, 0.5]], weight=[[0.5, -1.0], [0.25, 0.75]]
        ),
        edits=(Edit(_LINALG, "return _times(g.T, x)\n", "return _times(x.T, g)\n"),),
        verdict="wrong_gradient",
        cause="transpose",
        hints=(
            "The input is right, the weight is not. Which of its numbers are?",
            "Compare the gradient with the right one as two matrices.",
            "The weight is stored as (out, in), for x W^T. In which order do the axes of x^T g "
            "come?",
        ),
        solution="ops/linalg.py: `_linear_weight` returned `x.T @ g`, which is (in, out), and "
        "must return `g.T @ x`, which is (out, in) as the weight is. The gradient was the "
        "transpose of the right one, so its diagonal was right.",
    ),
    Entry(
        kind="transposition",
        title="A product of two matrices",
        program=programs.product,
        inputs=_fixed(
            a=[[1.0, 2.0, -1.0], [0.5, -1.0, 3.0]], b=[[0.5, -1.5], [3.0, 0.25], [1.0, 2.0]]
        ),
        edits=(
            Edit(
                _LINALG,
                "return a.swapaxes(-1, -2) @ g",
                "return a.reshape((*a.shape[:-2], a.shape[-1], a.shape[-2])) @ g",
            ),
        ),
        verdict="wrong_gradient",
        hints=(
            "The sizes differ and all shapes are right, and still something is wrong.",
            "There are two ways to make a (3, 2) of a (2, 3). Only one of them is a transposition.",
        ),
        solution="ops/linalg.py: the rule of `matmul` for b reshaped a where it must transpose "
        "it. `reshape` keeps the order of the numbers and breaks the lines elsewhere; "
        "`swapaxes(-1, -2)` exchanges rows and columns.",
    ),
    Entry(
        kind="transposition",
        title="A dense layer by hand: the weight",
        program=specimens.dense,
        inputs=_fixed(
            x=[[1.0, -0.5], [0.25, 2.0]],
            weight=[[0.5, -1.0], [0.25, 0.75], [1.0, 0.5]],
            bias=[0.1, -0.2, 0.0],
        ),
        vjp=specimens.dense_backward,
        edits=(Edit(_SPECIMENS, "slope @ weight, slope.T @ x", "slope @ weight, x.T @ slope"),),
        verdict="shape",
        cause="transpose",
        hints=(
            "Compare the shapes: the weight, and its gradient.",
            "The weight is (out, in). What is x^T slope?",
        ),
        solution="specimens.py: `dense_backward` returned `x.T @ slope`, which is (in, out), for "
        "a weight (out, in); it must be `slope.T @ x`. With as many inputs as outputs the shape "
        "would have been right and the numbers wrong.",
    ),
    # -------------------------------------------------------------------------------- operand
    Entry(
        kind="operand",
        title="A hyperbolic tangent",
        program=programs.squashed,
        inputs=_fixed(x=[0.5, -1.0, 2.0]),
        edits=(
            Edit(
                _ELEMENTWISE, "lambda g, out: g * (1 - out * out)", "lambda g, x: g * (1 - x * x)"
            ),
        ),
        verdict="wrong_gradient",
        hints=(
            "The slope of tanh is never negative. What does the gradient say at 2?",
            "The derivative is 1 - tanh(x)^2. Which array holds tanh(x)?",
        ),
        solution="ops/elementwise.py: the rule of `tanh` was `g * (1 - x * x)`, with the argument "
        "where it needs the result, `out`. The two are alike near 0, where weights are small: "
        "there a loose test would have let it pass.",
    ),
    Entry(
        kind="operand",
        title="Columns with a scale",
        program=programs.scaled,
        inputs=_fixed(x=[[1.0, -2.0], [0.5, 3.0]], scale=[2.0, -0.5]),
        edits=(
            Edit(
                _ELEMENTWISE,
                'multiply.vjp("a", lambda g, b: g * b)',
                'multiply.vjp("a", lambda g, a: g * a)',
            ),
        ),
        verdict="wrong_gradient",
        hints=(
            "Only x is wrong.",
            "If x grows by a little, x * scale grows by a little times ...",
        ),
        solution="ops/elementwise.py: the rule of `multiply` for a was `g * a`: its own factor, "
        "where it must be the other one, `g * b`. For x * x it would have been right.",
    ),
    Entry(
        kind="operand",
        title="A fraction",
        program=programs.ratio,
        inputs=_fixed(a=[1.0, -2.0, 3.0], b=[2.0, 0.5, -4.0]),
        edits=(
            Edit(
                _ELEMENTWISE,
                "lambda g, b, out: -g * out / b",
                "lambda g, a, b: -g * a / b",
            ),
        ),
        verdict="wrong_gradient",
        cause="factor",
        hints=(
            "Only the denominator is wrong. Is the ratio always the same?",
            "Divide the ratio by b, or multiply it.",
            "The derivative of a / b by b is -a / b^2. The rule may use out = a / b.",
        ),
        solution="ops/elementwise.py: the rule of `divide` for b was `-g * a / b`, and must be "
        "`-g * out / b`, where out is a / b already: -a / b^2. Whoever rewrites a rule to save one "
        "array less must change the formula too.",
    ),
    Entry(
        kind="operand",
        title="A logarithm",
        program=programs.logarithms,
        inputs=_fixed(x=[0.5, 2.0, 3.0]),
        edits=(
            Edit(
                _ELEMENTWISE,
                'log.vjp("x", lambda g, x: g / x)',
                'log.vjp("x", lambda g, out: g / out)',
            ),
        ),
        verdict="wrong_gradient",
        cause="factor",
        hints=(
            "The gradient is negative at 0.5. Does the logarithm ever fall?",
            "The derivative is 1 / x. bug.explain() says what the rule has in the place of x.",
        ),
        solution="ops/elementwise.py: the rule of `log` was `g / out`, with the result where it "
        "needs the argument, x.",
    ),
    Entry(
        kind="operand",
        title="One step of an LSTM by hand: the forget gate",
        program=specimens.lstm_step,
        inputs=_step_by_hand,
        vjp=specimens.lstm_step_backward,
        edits=(
            Edit(
                _SPECIMENS, "df = dc * c * f * (1 - f)", "df = dc * (f * c + i * g) * f * (1 - f)"
            ),
        ),
        verdict="wrong_gradient",
        cause="partial",
        hints=(
            "Some columns of `rows` are wrong. They come in the order i, f, g, o.",
            "c' = f * c + i * g. What does the forget gate multiply?",
        ),
        solution="specimens.py: the slope of the forget gate was multiplied by the new cell, "
        "`f * c + i * g`, and must be by the one before the step, `c`: what the gate multiplies is "
        "what it forgets.",
    ),
    # --------------------------------------------------------------------------- contribution
    Entry(
        kind="contribution",
        title="Log-probabilities",
        program=programs.log_probabilities,
        inputs=_fixed(scores=[[1.0, 0.5, -1.0], [0.0, 2.0, 0.25]]),
        edits=(
            Edit(
                _REDUCTION,
                "lambda g, out, axis: g - exp(out) * sum(g, axis=axis, keepdims=True)",
                "lambda g, out, axis: g",
            ),
        ),
        verdict="wrong_gradient",
        hints=(
            "Add 1 to all scores of a row. What happens to the probabilities? What does the "
            "gradient say?",
            "log_softmax(x) is x - log(sum(exp(x))): x is used twice.",
        ),
        solution="ops/reduction.py: the rule of `log_softmax` was `g`: the way through x itself. "
        "The second way, through log(sum(exp(x))), was left out: `- exp(out) * sum(g, axis)`.",
    ),
    Entry(
        kind="contribution",
        title="A state from elsewhere",
        program=programs.elman_layer,
        inputs=_sequence,
        edits=(
            Edit(
                _RECURRENT,
                "return [[value] for value in given], several",
                "return [[value.detach()] for value in given], several",
            ),
        ),
        verdict="wrong_gradient",
        cause="cut",
        hints=(
            "Only one input is wrong, and very simply so.",
            "A gradient of zero everywhere: nothing arrives. Where is the way back cut?",
            "Read `_initial_state` in microtensor/nn/recurrent.py.",
        ),
        solution="nn/recurrent.py: the initial state was detached before the first step. That is "
        "what truncated training wants between two windows, but then the user says so; a layer "
        "that does it by itself can never learn an initial state, nor be the second half of an "
        "encoder and decoder.",
    ),
    Entry(
        kind="contribution",
        title="A penalty on the slope",
        program=programs.slope_penalty,
        inputs=_fixed(x=[0.5, -1.0]),
        edits=(Edit(_ENGINE, "value = wrap(value, node)", "value = wrap(value)"),),
        verdict="wrong_gradient",
        cause="cut",
        hints=(
            "The gradient of tanh is right: check it. This program differentiates a second time.",
            "In g * (1 - out * out), which things depend on x?",
            "`_revive` in microtensor/engine.py makes tensors of what a node has saved, and says "
            "where each came from.",
        ),
        solution="engine.py: `_revive` made a constant of the saved result, `wrap(value)`, and "
        "must put it at its place in the graph, `wrap(value, node)`. So the second derivative did "
        "not know that the slope 1 - out^2 depends on x. First derivatives were all right: only a "
        "gradient of a gradient shows it.",
    ),
    Entry(
        kind="contribution",
        title="Rows brought to a common scale, by hand",
        program=specimens.layer_norm,
        inputs=_fixed(x=[[1.0, 2.0, 4.0], [-1.0, 0.5, 0.0]]),
        vjp=specimens.layer_norm_backward,
        edits=(Edit(_SPECIMENS, "(g - shift - stretch) / deviation", "(g - shift) / deviation"),),
        verdict="wrong_gradient",
        hints=(
            "x reaches the result on three ways: itself, through the mean, and ...",
            "If a number far from the mean moves further away, what happens to the deviation of "
            "the row, and so to all others?",
        ),
        solution="specimens.py: `layer_norm_backward` took the deviation for a constant; the term "
        "`stretch` was left out. The mean and the deviation both depend on every number of the "
        "row, and each is a way back.",
    ),
    Entry(
        kind="contribution",
        title="A wave packet",
        program=programs.wave_packet,
        inputs=_fixed(x=[0.5, 1.0, -2.0]),
        edits=(
            Edit(
                _ENGINE,
                "total = old + c  # of two 0-d arrays NumPy makes a scalar",
                "total = c  # of two 0-d arrays NumPy makes a scalar",
            ),
        ),
        verdict="wrong_gradient",
        hints=(
            "x is used in two places. What should each contribute, by the product rule?",
            "bug.explain() shows both contributions, and the running sum.",
            "Which of the two is left at the end, the first or the last?",
        ),
        solution="engine.py: `_Arrivals.add` kept the last contribution to a place, and must add "
        "it to what was there, `old + c`. A number that is used twice receives two contributions; "
        "of x sin x only x cos x was left. It is the oldest mistake in writing such engines: `=` "
        "where `+=` is meant.",
    ),
    # --------------------------------------------------------------------------- accumulation
    Entry(
        kind="accumulation",
        title="Rows from a table",
        program=programs.rows_picked,
        inputs=_fixed(table=[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
        edits=(
            Edit(
                _INDEXED,
                "backend.scatter_add(xp, target, index, values)",
                "target[index] += values",
            ),
        ),
        verdict="wrong_gradient",
        cause="partial",
        hints=(
            "Which row is wrong? What is special about it in [2, 0, 2]?",
            "Try in NumPy: a = np.zeros(3); a[[2, 0, 2]] += 1; print(a).",
        ),
        solution="indexed.py: `target[index] += values` with an index that names an element twice "
        "adds only once in NumPy: all right-hand sides are computed first, and the last one wins. "
        "`np.add.at`, which `scatter_add` stands for, adds each. In an embedding every word that "
        "occurs twice in a batch would have learnt from its last occurrence only.",
    ),
    Entry(
        kind="accumulation",
        title="A shortcut around a bend",
        program=programs.residual,
        inputs=_fixed(x=[0.5, -1.0], y=[2.0, 0.25]),
        edits=(
            Edit(
                _ENGINE,
                "total = old + c  # of two 0-d arrays NumPy makes a scalar",
                "old += c\n            total = old",
            ),
        ),
        verdict="mutated_input",
        hints=(
            "x is right, and something that is not x has changed.",
            "The rule of an addition hands its cotangent on as it is: not the same numbers, the "
            "same array.",
            "Where in microtensor/engine.py are two contributions added, and into whose memory?",
        ),
        solution="engine.py: `_Arrivals.add` added the second contribution to x into the memory "
        "of the first. But the first was the cotangent itself, which `add` hands on to both of its "
        "arguments: so y's gradient changed with x's, and so did the array that the caller had "
        "given. The sum must be a new array, `old + c`, until one is our own.",
    ),
    Entry(
        kind="accumulation",
        title="Two of a kind",
        program=programs.sum_of_two,
        inputs=_fixed(a=[1.0, 2.0], b=[0.5, -1.0]),
        edits=(Edit(_ENGINE, "else wrap(c.copy()))", "else wrap(c))"),),
        verdict="aliased_gradient",
        hints=(
            "All numbers are right.",
            "Change one of the two gradients in place. What happens to the other?",
        ),
        solution="engine.py: `grad` returned the arrays as they had arrived, and must copy them. "
        "`add` hands one array on to both arguments, so the two gradients (and the cotangent) were "
        "one array: clipping one in place would clip the other, a second time.",
    ),
    Entry(
        kind="accumulation",
        title="Attention weights again",
        program=programs.attention_weights,
        inputs=_fixed(scores=[[1.0, 0.5, -1.0], [0.0, 2.0, 0.25]]),
        edits=(
            Edit(
                _REDUCTION,
                "weights = xp.exp(x - xp.max(x, axis=axis, keepdims=True))",
                "x -= xp.max(x, axis=axis, keepdims=True)\n    weights = xp.exp(x)",
            ),
        ),
        verdict="mutated_input",
        hints=(
            "Print the scores before and after.",
            "What is the difference between x = x - 1 and x -= 1, for whoever else holds x?",
        ),
        solution="ops/reduction.py: `softmax` subtracted the largest score in place, `x -= ...`, "
        "and the array is the caller's. The result is right, since a softmax does not mind a "
        "shift; the scores are not what they were.",
    ),
    Entry(
        kind="accumulation",
        title="A rectifier by hand",
        program=specimens.relu,
        inputs=_fixed(x=[1.5, -0.5, 2.0, -3.0]),
        vjp=specimens.relu_backward,
        edits=(Edit(_SPECIMENS, "passed = g.copy()", "passed = g"),),
        verdict="mutated_input",
        hints=(
            "The gradient is right. At whose cost?",
            "`passed = g` makes no array, it makes a second name.",
        ),
        solution="specimens.py: `relu_backward` wrote its zeros into g, which belongs to the "
        "caller and may be the cotangent of other results too: of the shortcut around the "
        "rectifier, for instance. It must copy first, or multiply, `g * (x > 0)`.",
    ),
    # ---------------------------------------------------------------------------------- dtype
    Entry(
        kind="dtype",
        title="All but the first, in single precision",
        program=programs.all_but_the_first,
        inputs=_fixed(x=np.array([1.0, 2.0, 3.0], np.float32)),
        edits=(
            Edit(
                _INDEXED,
                "xp.zeros(shape, part.values.dtype) if first is None",
                "xp.zeros(shape) if first is None",
            ),
        ),
        verdict="dtype",
        hints=(
            "All numbers are right.",
            "What does np.zeros(3) give, if nobody says which dtype?",
        ),
        solution="indexed.py: the buffer into which indexed contributions are added was made "
        "without a dtype, so it was float64, and the gradient of a float32 input was too. Nothing "
        "looks wrong, and everything behind it runs at half the speed in twice the memory.",
    ),
    Entry(
        kind="dtype",
        title="A loss that saves memory",
        program=programs.classifier_loss,
        inputs=_fixed(logits=[[1.0, 0.5], [0.25, 0.0]], labels=[0, 1]),
        edits=(
            Edit(
                _LOSS,
                "return out, probabilities, logits.shape",
                "return out, probabilities.astype(xp.float32), logits.shape",
            ),
        ),
        verdict="dtype",
        cause="precision",
        hints=(
            "How many digits are right?",
            "The loss is exact. What does the backward pass use that it has not computed itself?",
        ),
        solution="ops/loss.py: the probabilities that wait for the backward pass were saved as "
        "float32, and the gradient of float64 logits had seven right digits left. Its own dtype "
        "was right; that another one had been on the way, the size of the error tells.",
    ),
    Entry(
        kind="dtype",
        title="To the power of two and a half",
        program=programs.to_the_power,
        inputs=_fixed(x=[0.5, 1.5, 2.0]),
        edits=(Edit(_ELEMENTWISE, "else p and p - 1\n", "else p and int(p) - 1\n"),),
        verdict="wrong_gradient",
        hints=(
            "At 1 it would be right. Is it too large or too small on either side?",
            "The derivative of x^p is p x^(p-1). What is the exponent here?",
            "It would be right for x^2 and for x^3.",
        ),
        solution="ops/elementwise.py: `_base_rule` made an integer of the exponent, `int(p) - 1`: "
        "the derivative of x^2.5 was 2.5 x^1 instead of 2.5 x^1.5. Tests with whole exponents, "
        "which come to mind first, do not notice.",
    ),
    Entry(
        kind="dtype",
        title="A soft step, in single precision",
        program=programs.soft_steps,
        inputs=_fixed(x=np.array([0.5, -1.0, 2.0], np.float32)),
        edits=(
            Edit(
                _ELEMENTWISE,
                "xp.log1p(xp.exp(xp.absolute(x) * -1.0))",
                "xp.log1p(xp.exp(xp.absolute(x) * xp.float64(-1.0)))",
            ),
        ),
        verdict="dtype",
        hints=(
            "Of which dtype is the result?",
            "Since NumPy 2, float32 array * 1.0 and float32 array * np.float64(1.0) differ.",
        ),
        solution="ops/elementwise.py: `softplus` multiplied by xp.float64(-1.0). A Python number "
        "takes on the dtype of the array it meets; a NumPy scalar keeps its own, and made the "
        "result float64. The backward pass then has a float64 cotangent for a float32 argument.",
    ),
    # ----------------------------------------------------------------------------------- time
    Entry(
        kind="time",
        title="An LSTM by hand: the recurrent weights",
        program=specimens.lstm,
        inputs=_lstm_by_hand,
        vjp=specimens.lstm_backward,
        edits=(Edit(_SPECIMENS, "dw_hh += slopes.T @ hs[t]", "dw_hh += slopes.T @ hs[t + 1]"),),
        verdict="wrong_gradient",
        hints=(
            "Only w_hh is wrong.",
            "At step t, which h is multiplied by w_hh?",
            "hs[0] is the state before the first step, so hs[t] is the one before step t.",
        ),
        solution="specimens.py: the gradient of w_hh was made with the state after the step, "
        "`hs[t + 1]`. The product is w_hh h[t-1], so its weight meets the state from before, "
        "`hs[t]` in this numbering.",
    ),
    Entry(
        kind="time",
        title="One step of an LSTM by hand: four gates",
        program=specimens.lstm_step,
        inputs=_step_by_hand,
        vjp=specimens.lstm_step_backward,
        edits=(
            Edit(
                _SPECIMENS,
                "np.concatenate([di, df, dg, do], axis=1)",
                "np.concatenate([di, df, do, dg], axis=1)",
            ),
        ),
        verdict="wrong_gradient",
        cause="blocks",
        hints=(
            "Take one row of the gradient, the wrong one and the right one, and cut each into four "
            "pieces.",
            "In which order are the gates cut in the forward pass, and joined in the backward one?",
        ),
        solution="specimens.py: the slopes of the gates were joined in the order i, f, o, g, and "
        "the forward pass cuts in the order i, f, g, o. The gradients of g and o stood in each "
        "other's place. Libraries differ in this order, so it is the bug of many a conversion.",
    ),
    Entry(
        kind="time",
        title="One step of an LSTM by hand: the carousel",
        program=specimens.lstm_step,
        inputs=_step_by_hand,
        vjp=specimens.lstm_step_backward,
        edits=(Edit(_SPECIMENS, "axis=1), dc * f\n", "axis=1), dc\n"),),
        verdict="wrong_gradient",
        hints=(
            "Only c is wrong. Are there numbers for which it is nearly right?",
            "c' = f * c + i * g: by how much does c' move if c does?",
        ),
        solution="specimens.py: the cotangent of the cell went back to the step before unchanged; "
        "it must be multiplied by the forget gate, `dc * f`. With gates near 1, where LSTMs that "
        "remember are, it would have been nearly right.",
    ),
    Entry(
        kind="time",
        title="The order of the steps",
        program=programs.elman_layer,
        inputs=_sequence,
        edits=(
            Edit(
                _SHAPE,
                'unstack.vjp("x", lambda g, shapes, axis: _stack(*_filled(g, shapes), axis=axis))',
                'unstack.vjp("x", lambda g, shapes, axis: _stack(*_filled(g, shapes)[::-1], '
                "axis=axis))",
            ),
        ),
        verdict="wrong_gradient",
        cause="reversed",
        hints=(
            "The middle step is right, of three.",
            "The layer cuts the sequence into steps with `unstack`. What does its backward pass "
            "do?",
        ),
        solution="ops/shape.py: the rule of `unstack` stacked the contributions of the steps in "
        "the order in which a backward pass visits them, last step first. So the first step had "
        "the gradient of the last. The recurrent weights, which do not go through `unstack`, were "
        "right.",
    ),
    Entry(
        kind="time",
        title="A short memory",
        program=programs.elman_layer,
        inputs=_sequence,
        edits=(
            Edit(
                _RECURRENT,
                "        state = new\n    return (stack(outputs",
                "        state = tuple([value.detach() for value in new])\n"
                "    return (stack(outputs",
            ),
        ),
        verdict="wrong_gradient",
        hints=(
            "The gradient of the last step's input is right.",
            "What does a step know of the steps before it, and what flows back to them?",
            "Read the loop in `scan`, microtensor/nn/recurrent.py.",
        ),
        solution="nn/recurrent.py: `scan` detached the state after every step. The values are "
        "right, but each step's error reaches only its own inputs: back-propagation through time "
        "was cut off after one step, and no dependency could be learnt that is longer.",
    ),
    # ------------------------------------------------------------------------------ optimizer
    Entry(
        kind="optimizer",
        title="Adam",
        program=programs.adam,
        formula=programs.adam_formula,
        edits=(
            Edit(
                "microtensor.optim.adam",
                "unbias = math.sqrt(1.0 - beta2**slot.step)",
                "unbias = 1.0",
            ),
        ),
        verdict="wrong_update",
        cause="factor",
        hints=(
            "How large is the first step, compared with the formula's?",
            "Both running means start at zero. What makes up for that?",
        ),
        solution="optim/adam.py: the second mean was not freed of its start, sqrt(1 - beta2^t) "
        "was missing. It starts at zero and is far too small at first, so the first steps were far "
        "too long: with beta2 = 0.99 ten times.",
    ),
    Entry(
        kind="optimizer",
        title="Momentum",
        program=programs.momentum,
        formula=programs.momentum_formula,
        edits=(
            Edit(
                "microtensor.optim.sgd",
                "velocity[...] = g",
                'velocity = slot.arrays["momentum_buffer"] = g',
            ),
        ),
        verdict="aliased_gradient",
        hints=(
            "Which array does the optimizer keep between two steps, and who else has it?",
            "Many training loops keep a gradient's memory and fill it anew.",
        ),
        solution="optim/sgd.py: the velocity of the first step was the gradient's own array, not "
        "a copy. The next step multiplies the velocity in place, and whoever still holds the "
        "gradient sees it change; whoever fills that array anew changes the velocity.",
    ),
    Entry(
        kind="optimizer",
        title="Weight decay",
        program=programs.decayed,
        formula=programs.decayed_formula,
        edits=(
            Edit(
                "microtensor.optim.optimizer",
                "gradient = xp.add(gradient, slot.spare, out=slot.scratch)",
                "gradient = xp.subtract(gradient, slot.spare, out=slot.scratch)",
            ),
        ),
        verdict="wrong_update",
        cause="decay",
        hints=(
            "The difference is a multiple of something. Of the gradient?",
            "Should large weights shrink or grow?",
        ),
        solution="optim/optimizer.py: the weight decay was subtracted from the gradient, and must "
        "be added: a step goes against the gradient, so this made large weights larger.",
    ),
    Entry(
        kind="optimizer",
        title="RMSprop",
        program=programs.rmsprop,
        formula=programs.rmsprop_formula,
        edits=(
            Edit(
                "microtensor.optim.rmsprop",
                "xp.multiply(xp.multiply(g, g, out=spare), 1.0 - alpha, out=spare)",
                "xp.multiply(g, g, out=spare)",
            ),
        ),
        verdict="wrong_update",
        cause="factor",
        hints=(
            "By which factor is the first step off? Square it.",
            "A running mean is alpha times the old plus ... times the new.",
        ),
        solution="optim/rmsprop.py: the square of the gradient was added whole, without the "
        "factor 1 - alpha. The mean was then 1 / (1 - alpha) = 10 times too large, and every step "
        "too short by the square root of 10: it looks like a badly chosen learning rate.",
    ),
    Entry(
        kind="optimizer",
        title="Adagrad",
        program=programs.adagrad,
        formula=programs.adagrad_formula,
        edits=(
            Edit(
                "microtensor.optim.adagrad",
                "xp.add(total, xp.multiply(g, g, out=spare), out=total)",
                "xp.multiply(g, g, out=total)",
            ),
        ),
        verdict="wrong_update",
        cause="state",
        hints=(
            "Is the first step right? Is the second?",
            "What should the optimizer remember?",
        ),
        solution="optim/adagrad.py: the squares were set, not added up. Without memory every step "
        "is the gradient over its own size: the learning rate never falls, and only the sign of "
        "the gradient counts.",
    ),
)
