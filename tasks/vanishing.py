"""The lecture's story as numbers: the dish is named in the first sentence and asked for at the end.

"Today I want to cook red-braised ribs: first prepare the ribs, then …, and at last a tasty dish is
ready." Which dish? The simple network says spicy chicken. Its error, on the way back to the word
that decides, is multiplied by the same weights at every step, and vanishes or explodes; the memory
cell and the gates are there to stop that.

Three parts. *Exact*: recurrences whose gradient is known in closed form, and the engine's beside
it. *First weights*: how a gradient fares in each cell before any training, where the honest answer
is that an LSTM whose forget gates start half open forgets as the simple network does. *Training*:
the story itself, read by each network, with the forget gate's bias and gradient clipping on and
off.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import microtensor as mt
from microtensor import nn
from microtensor.nn.functional import linear
from models.vanishing import StoryReader, first_cells, gru_cell, logistic, lstm_cell
from tasks import plots
from tasks.hand_lstm import exact_power, multiply_again_and_again
from tasks.harness import (
    Level,
    Row,
    Run,
    Settings,
    Task,
    Trial,
    at_least,
    at_most,
    check_counts,
    check_learning_rate,
    highest_of,
    judged,
    median_of,
    success_rate,
    within,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tasks.work import Work

# -- exact: gradients that are known in closed form

WEIGHTS = (0.9, 0.99, 1.01, 1.1)
"""Of the linear net; two below one, two above."""
POWER = 999  # the document's exponent: 1000 steps
SHORT_CIRCUIT = 25.0  # bias of an update gate that is as good as one: 1 - sigma(25) = 1.4e-11


def jacobians(last: mt.Tensor, earlier: Sequence[mt.Tensor]) -> list[np.ndarray]:
    """The matrices ∂last/∂v for every v of `earlier`.

    All of them have one row for each element of a state of n units, that is, the same sequence was
    run n times side by side: then one backward pass, which starts from the identity, gives every
    row of every Jacobian.

    Parameters
    ----------
    last
        Shape `(n, n)`: n equal rows.
    earlier
        Tensors of shape `(n, m)`, from which `last` was computed row by row.

    Returns
    -------
    list of arrays `(n, m)`: element [i, j] is the derivative of unit i by element j.
    """
    identity = mt.tensor(np.eye(last.shape[0]))
    return [g.numpy() for g in mt.grad([last], earlier, grad_outputs=[identity])]


def alike(rows_: int, vector: np.ndarray) -> mt.Tensor:
    """`rows_` equal rows of a vector, as a leaf whose gradient can be asked for."""
    return mt.tensor(np.repeat(vector[None], rows_, axis=0), requires_grad=True)


def linear_norms(w: float, units: int, steps: int, generator: mt.Generator) -> np.ndarray:
    """‖∂h_T/∂h_k‖ for k = T, T-1, …, T-steps in the linear net h_t = w Q h_(t-1) + x_t.

    Q is a random orthogonal matrix, so every step stretches every direction by w, and the norm is
    w^(T-k) exactly.
    """
    q = nn.init.orthogonal_(mt.zeros((units, units), dtype="float64"), generator=generator)
    h = alike(units, generator.normal((units,), np.float64))
    states = [h]
    for x in generator.normal((steps, units), np.float64):
        states.append(linear(states[-1], w * q) + mt.tensor(x))
    return np.array([np.linalg.norm(j, 2) for j in jacobians(states[-1], states[::-1])])


def cell_error(units: int, steps: int, generator: mt.Generator) -> float:
    """The largest relative error of ∂c_T/∂c_k against the product of the forget gates.

    h is detached on its way into the gates, so that only the path through the cell is left; then
    the Jacobian is diagonal and holds the product of the gates between. Anything off the diagonal
    counts as an error of its own size.
    """
    module = lstm_cell(units, generator, forget_bias=3.0)
    h, c = module.initial_state(units)
    c = alike(units, c.numpy()[0])
    cells, gates = [c], []
    for x in generator.normal((steps, units), np.float64):
        from_input = linear(alike(units, x), module.weight_ih, module.bias_ih)
        from_state = linear(mt.detach(h), module.weight_hh)
        f = (from_input + from_state).detach().numpy()[0, units : 2 * units]
        gates.append(1.0 / (1.0 + np.exp(-f)))
        h, c = module.cell.step(from_input, from_state, (h, c))
        cells.append(c)
    errors, product = [], np.ones(units)
    for gate, jacobian in zip(gates[::-1], jacobians(c, cells[:-1])[::-1], strict=True):
        product = product * gate
        errors.append(np.abs(jacobian / product[:, None] - np.eye(units)).max())
    return float(np.max(errors))  # not a number if one is none, which max would pass over


def short_circuit_error(units: int, steps: int, generator: mt.Generator) -> float:
    """The largest difference between ∂h_T/∂h_k and the identity in a GRU with z → 1."""
    module = gru_cell(units, generator, update_bias=SHORT_CIRCUIT)
    states = [alike(units, generator.normal((units,), np.float64))]
    for x in generator.normal((steps, units), np.float64):
        states.append(module(alike(units, x), states[-1]))
    found = jacobians(states[-1], states[:-1])
    return float(np.max([np.abs(j - np.eye(units)).max() for j in found]))


def logistic_bound(units: int, steps: int, generator: mt.Generator) -> float:
    """The largest error flow in a logistic net with |w| < 4/n, as a share of the bound n τ^q.

    The 1997 paper bounds the flow from any unit to any other over q steps by n τ^q with
    τ = n w_max / 4, since the slope of a logistic unit is at most a quarter.
    """
    limit = 0.95 * 4 / units
    weight = mt.tensor(generator.uniform(-limit, limit, (units, units), "float64"))
    tau = units * float(np.abs(weight.numpy()).max()) / 4
    states = [alike(units, generator.uniform(0, 1, (units,), "float64"))]
    for x in generator.normal((steps, units), np.float64):
        [h] = logistic.step(alike(units, x), linear(states[-1], weight), (states[-1],))
        states.append(h)
    flows = [np.abs(j).max() for j in jacobians(states[-1], states[:-1])][::-1]
    return float(np.max([flow / (units * tau**q) for q, flow in enumerate(flows, 1)]))


def exact(work: Work) -> list[Trial]:
    """Everything that has a closed form, with weights and inputs of this trial's own."""
    settings: VanishingSettings = work.settings
    [number] = work.trials
    units, steps = 8, settings.steps
    values: dict[str, float] = {}
    arrays: dict[str, np.ndarray] = {}
    for w in WEIGHTS:
        norms = linear_norms(w, units, steps, work.generator("linear"))
        values[f"linear_{w}"] = float(np.abs(norms / w ** np.arange(steps + 1.0) - 1).max())
        arrays[f"linear_{w}"] = norms
    for w in (0.99, 1.01):
        flow = multiply_again_and_again(w, POWER + 1)
        values[f"power_{w}"], values[f"slope_{w}"] = flow.output, flow.weight_gradient
    values["cell"] = cell_error(units, steps, work.generator("cell"))
    values["short_circuit"] = short_circuit_error(units, steps, work.generator("short circuit"))
    values["bound"] = logistic_bound(units, steps, work.generator("bound"))
    return [Trial(number, values=values, arrays=arrays)]


# -- first weights


def gradient_by_distance(module: Any, xs: np.ndarray) -> np.ndarray:
    """‖∂h_T/∂x_k‖ (Frobenius) by distance T - k = 0, 1, …; `xs` has shape `(T, I)`."""
    units = module.hidden_size
    inputs = [alike(units, x) for x in xs]
    state = None
    for x in inputs:
        state = module(x, state)
    h = state[0] if isinstance(state, tuple) else state
    return np.array([np.linalg.norm(j) for j in jacobians(h, inputs)])[::-1]


def factor_of(norms: np.ndarray) -> float:
    """What is left of a gradient from one step to the next: geometric mean, from a tenth on."""
    first, last = len(norms) // 10, len(norms) - 1
    return float((norms[last] / norms[first]) ** (1 / (last - first)))


def first_weights(work: Work) -> list[Trial]:
    """Follow a gradient through each cell as libraries start it, over random inputs."""
    settings: VanishingSettings = work.settings
    [number] = work.trials
    size = settings.hidden_size
    xs = work.generator("inputs").normal((settings.steps, size), np.float64)
    arrays = {
        name: gradient_by_distance(build(size, work.generator("weights", name)), xs)
        for name, build in first_cells.items()
    }
    values = {}
    for name, norms in arrays.items():
        values[f"factor_{name}"] = factor_of(norms)
        values[f"left_{name}"] = float(norms[-1] / norms[0])
    return [Trial(number, values=values, arrays=arrays)]


# -- the story

OPENING = ("today", "I", "cook")
DISHES = ("red-braised ribs", "spicy chicken")
FILLERS = (
    "wash", "chop", "then", "add", "ginger", "soy",
    "stir", "fry", "simmer", "wait", "taste", "salt",
)  # fmt: skip
QUESTION = "which dish?"
WORDS = (*OPENING, *DISHES, *FILLERS, QUESTION)
DISH_AT = len(OPENING)
"""Position of the word that decides."""

CHANCE = Level("guessing", 1 / len(DISHES))
SOLVED = 0.95  # right answers, at every length that was trained
BATCH = 32
TESTED = 256  # stories for each length
SHOWN = 20  # words between in the picture of one story


def stories(generator: mt.Generator, length: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Tell stories with `length` words between the dish and the question.

    Returns
    -------
    The words, int64 `(T, count)`, time first, and the dish of each, `(count,)`, from 0.
    """
    dish = generator.integers(0, len(DISHES), (count,))
    first_filler = DISH_AT + len(DISHES)
    fillers = generator.integers(first_filler, first_filler + len(FILLERS), (length, count))
    opening = np.repeat(np.arange(DISH_AT)[:, None], count, axis=1)
    question = np.full((1, count), len(WORDS) - 1)
    return np.concatenate([opening, DISH_AT + dish[None], fillers, question]), dish


@dataclass(frozen=True)
class Reader:
    """One network and how it is trained."""

    title: str
    kind: str
    forget_bias: float = 0.0
    near: bool = False  # few words between
    clip: float = 0.0  # largest norm of the gradient; 0 leaves it alone
    optimizer: str = "adam"


READERS = {
    "rnn": Reader("RNN", "rnn"),
    "lstm": Reader("LSTM, forget bias 1", "lstm", forget_bias=1.0),
    "gru": Reader("GRU", "gru"),
    "lstm_forget0": Reader("LSTM, forget bias 0", "lstm"),
    "rnn_near": Reader("RNN, the dish near", "rnn", near=True),
    "relu": Reader("RNN with ReLU, not clipped", "relu", optimizer="sgd"),
    "relu_clipped": Reader("RNN with ReLU, clipped at 1", "relu", clip=1.0, optimizer="sgd"),
}


@dataclass(frozen=True, kw_only=True)
class VanishingSettings(Settings):
    """The documents tell a story and print two powers; the settings are ours."""

    trials: int = 10
    """Independent repetitions; each has its own weights and stories."""
    steps: int = 100
    """Time steps over which gradients are followed without training."""
    hidden_size: int = 32
    """Units of every network, the documents' number."""
    updates: int = 1200
    """Updates of the weights in training, each on 32 stories."""
    learning_rate: float = 0.01
    """Step size of Adam."""
    sgd_learning_rate: float = 0.1
    """Step size of plain gradient descent, with and without clipping."""
    shortest: int = 10
    """Fewest words between the dish and the question."""
    longest: int = 50
    """Most words between the dish and the question."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "hidden_size", "updates", "shortest")
        if not 10 <= self.steps <= 1000:
            raise ValueError(f"steps must be from 10 to 1000; got {self.steps}")
        if self.longest < self.shortest:
            raise ValueError(
                f"longest must be at least shortest, {self.shortest}; got {self.longest}"
            )
        check_learning_rate(self.learning_rate)
        check_learning_rate(self.sgd_learning_rate, "sgd_learning_rate")


def trained_lengths(reader: Reader, settings: VanishingSettings) -> tuple[int, int]:
    """Fewest and most words between, in training."""
    return (1, 4) if reader.near else (settings.shortest, settings.longest)


def tested_lengths(reader: Reader, settings: VanishingSettings) -> list[int]:
    """Lengths at which the answers are counted: five over the trained range, then twice as far."""
    low, high = trained_lengths(reader, settings)
    return sorted({round(low + (high - low) * part / 4) for part in range(5)} | {2 * high})


def tell(work: Work) -> list[Trial]:
    """Train one network on stories of random length, then ask what its decision listens to."""
    settings: VanishingSettings = work.settings
    reader = READERS[work.variant]
    [number] = work.trials
    model = StoryReader(
        reader.kind,
        len(WORDS),
        len(DISHES),
        settings.hidden_size,
        forget_bias=reader.forget_bias,
        generator=work.generator("weights", reader.kind),
    )
    optimizer: mt.optim.Adam | mt.optim.SGD
    if reader.optimizer == "adam":
        optimizer = mt.optim.Adam(model.parameters(), lr=settings.learning_rate)
    else:
        optimizer = mt.optim.SGD(model.parameters(), lr=settings.sgd_learning_rate)
    loss_of = nn.CrossEntropyLoss()
    low, high = trained_lengths(reader, settings)
    seen: dict[str, Any] = {"right": 0, "norm": 0.0, "norm_highest": 0.0}
    every = min(50, settings.updates)
    for update in work.steps(settings.updates, model=model, optimizer=optimizer, seen=seen):
        generator = work.generator("story", update)
        words, dish = stories(generator, int(generator.integers(low, high + 1)), BATCH)
        logits = model(words)
        loss = loss_of(logits, mt.tensor(dish))
        optimizer.zero_grad()
        loss.backward()
        # A norm that cannot be passed shrinks nothing: it is only measured.
        norm = nn.utils.clip_grad_norm_(model.parameters(), reader.clip or math.inf).item()
        norm = norm if math.isfinite(norm) else math.inf
        optimizer.step()
        seen["right"] += int((logits.detach().numpy().argmax(axis=-1) == dish).sum())
        seen["norm"] = max(seen["norm"], norm)
        seen["norm_highest"] = max(seen["norm_highest"], norm)
        if (update + 1) % every == 0:
            right = seen["right"] / (every * BATCH)
            work.log(update + 1, right=right, loss=loss.item(), gradient_norm=seen["norm"])
            seen["right"], seen["norm"] = 0, 0.0
    return [_asked(work, number, model, seen["norm_highest"])]


def _asked(work: Work, number: int, model: StoryReader, highest: float) -> Trial:
    """Count the right answers at each length, and trace the decision back to the words."""
    settings: VanishingSettings = work.settings
    reader = READERS[work.variant]
    _, high = trained_lengths(reader, settings)
    lengths = tested_lengths(reader, settings)
    values: dict[str, Any] = {"gradient_norm_highest": highest}
    right = []
    with mt.no_grad():
        for length in lengths:
            words, dish = stories(work.generator("test", length), length, TESTED)
            right.append(float((model(words).numpy().argmax(axis=-1) == dish).mean()))
    values["right_at_longest"] = right[lengths.index(high)]
    values["solved"] = min(right[: lengths.index(high) + 1]) >= SOLVED
    arrays = {"lengths": np.array(lengths), "right": np.array(right)}
    arrays["by_word_long"] = gradient_by_word(model, *stories(work.generator("long"), high, BATCH))
    told, dish = stories(work.generator("shown"), min(SHOWN, high), BATCH)
    arrays["by_word"] = gradient_by_word(model, told, dish)
    arrays["words"] = told[:, 0]
    arrays["by_swap"] = change_by_word(model, told, dish, work.generator("swaps"))
    values["gradient_on_dish"] = float(_shares(arrays["by_word"])[DISH_AT])
    values["change_by_dish"] = float(_shares(arrays["by_swap"])[DISH_AT])
    return Trial(number, values=values, model=model.state_dict(), arrays=arrays)


def gradient_by_word(model: StoryReader, words: np.ndarray, dish: np.ndarray) -> np.ndarray:
    """How strongly each word moves the decision: ‖∂margin/∂x_t‖, mean of the stories, `(T,)`.

    The margin is the right dish's logit less the mean of all: the decision itself. (The loss of a
    network that is sure of its answer has next to no gradient anywhere.)
    """
    with mt.no_grad():
        embedded = model.embedding(words)
    embedded = embedded.detach().requires_grad_()
    logits = model.read(embedded)
    chosen = np.eye(logits.shape[-1], dtype=logits.dtype)[dish] - 1 / logits.shape[-1]
    margins = (logits * mt.tensor(chosen.astype(logits.dtype))).sum()
    [gradient] = mt.grad(margins, [embedded])
    return np.linalg.norm(gradient.numpy().astype("float64"), axis=-1).mean(axis=1)


def change_by_word(
    model: StoryReader, words: np.ndarray, dish: np.ndarray, generator: mt.Generator
) -> np.ndarray:
    """How far the decision moves when one word is swapped for another of its kind, `(T,)`.

    The dish for another dish, a word between for another word between: the mean change of the
    margin. The words that are the same in every story have no other. Where a memory is sure of
    itself, its gradient is small just as a saturated unit's is; a swapped word still turns it over.
    """
    margin = _margin(model, words, dish)
    moved = np.zeros(len(words))
    first_filler = DISH_AT + len(DISHES)
    for t in range(DISH_AT, len(words) - 1):
        first, kinds = (DISH_AT, len(DISHES)) if t == DISH_AT else (first_filler, len(FILLERS))
        other = words.copy()
        step = generator.integers(1, kinds, (words.shape[1],))
        other[t] = first + (words[t] - first + step) % kinds
        moved[t] = np.abs(_margin(model, other, dish) - margin).mean()
    return moved


def _margin(model: StoryReader, words: np.ndarray, dish: np.ndarray) -> np.ndarray:
    with mt.no_grad():
        logits = model(words).numpy().astype("float64")
    return logits[np.arange(len(dish)), dish] - logits.mean(axis=1)


def _shares(by_word: np.ndarray) -> np.ndarray:
    """Shares of the sum; zeros where nothing matters any more, as in a network that has died."""
    total = by_word.sum()
    return by_word / total if 0 < total < math.inf else np.zeros_like(by_word)


def train(work: Work) -> list[Trial]:
    """One trial of one part."""
    if work.variant == "exact":
        return exact(work)
    if work.variant == "first_weights":
        return first_weights(work)
    return tell(work)


# -- rows


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def rows(run: Run) -> list[Row]:
    """The closed forms, the factors at first weights, and who understands the story."""
    return [*_exact_rows(run), *_first_rows(run), *_story_rows(run)]


def _exact_rows(run: Run) -> list[Row]:
    def worst(name: str) -> dict[str, Any]:
        return highest_of(run.values(name, "exact"))

    steps = run.settings.steps
    table = [
        Row(
            f"linear net, w = {w}: largest relative error of |dh_T/dh_k| against w^(T-k)",
            **worst(f"linear_{w}"),
            target=0.0,
            source="computed",
            tolerance=at_most(1e-12),
            note=f"8 units, {steps} steps: at the far end {w**steps:.3g} of a gradient is left.",
        )
        for w in WEIGHTS
    ]
    for w in ("0.99", "1.01"):
        power, slope = exact_power(w, POWER)
        for name, target, what in (
            ("power", power, f"{w}^{POWER}: the last output"),
            ("slope", slope, f"{POWER} · {w}^{POWER - 1}: its gradient by the weight"),
        ):
            table.append(
                Row(
                    what,
                    **median_of(run.values(f"{name}_{w}", "exact")),
                    target=target,
                    source="document" if name == "power" else "computed",
                    tolerance=within(target, 1e-10 * target),
                    levels=(Level("w = 1", 1.0 if name == "power" else float(POWER)),),
                )
            )
    table += [
        Row(
            "LSTM: largest relative error of dc_T/dc_k against the product of forget gates",
            **worst("cell"),
            target=0.0,
            source="computed",
            tolerance=at_most(1e-10),
            note="h detached on its way into the gates, so that the cell's path is alone.",
        ),
        Row(
            "GRU, update gate at one: largest difference of dh_T/dh_k from the identity",
            **worst("short_circuit"),
            target=0.0,
            source="computed",
            tolerance=at_most(1e-6),
            note=f"Bias {SHORT_CIRCUIT:g}: z → 1 carries the state, and its gradient, past the "
            "step.",
        ),
        Row(
            "logistic net with |w| < 4/n: largest error flow, as a share of its bound",
            **worst("bound"),
            target=1.0,
            source="paper",
            tolerance=at_most(1.0),
            note="The bound is n τ^q over q steps, τ = n w_max / 4 < 1: the gradient must vanish.",
        ),
    ]
    return table


def _first_rows(run: Run) -> list[Row]:
    def factor(name: str) -> dict[str, Any]:
        return median_of(run.values(f"factor_{name}", "first_weights"))

    circle = 1 / math.sqrt(3)
    known: list[tuple[str, str, float, tuple[float, float], str]] = [
        (
            "rnn",
            "RNN, uniform weights",
            circle,
            at_most(circle),
            "1/√3 is the spectral radius of such a matrix, and the slope of tanh takes more away.",
        ),
        (
            "rnn_orthogonal",
            "RNN, orthogonal weights",
            1.0,
            at_most(1.0),
            "The matrix keeps every length: only the slope of tanh is left to shrink it.",
        ),
    ]
    gates = (
        ("gru", "GRU", 0.0, "The update gate is half open."),
        ("lstm_forget0", "LSTM, forget bias 0", 0.0, "It starts to forget as fast as the others."),
        ("lstm_forget1", "LSTM, forget bias 1", 1.0, "What TensorFlow and Keras start with."),
        ("lstm_forget4", "LSTM, forget bias 4", 4.0, "Long memory from the start."),
    )
    for name, title, bias, note in gates:
        gate = _sigmoid(bias)
        known.append(
            (
                name,
                title,
                gate,
                (0.98 * gate, gate + 0.15),
                f"{note} The target is sigma({bias:g}), the path past the gate alone; the paths "
                "through the other weights add to it.",
            )
        )
    table = [
        Row(
            f"first weights, {title}: factor of the gradient a step",
            **factor(name),
            target=target,
            source="computed",
            tolerance=tolerance,
            levels=(Level("kept", 1.0),),
            note=note,
        )
        for name, title, target, tolerance, note in known
    ]
    steps = run.settings.steps
    table += [
        Row(
            f"first weights, {title}: gradient left {steps - 1} steps back",
            **median_of(run.values(f"left_{name}", "first_weights")),
            levels=(Level("kept", 1.0),),
        )
        for name, title, *_ in known
    ]
    return table


def _story_rows(run: Run) -> list[Row]:
    settings: VanishingSettings = run.settings
    verdict = functools.partial(judged, when=run.preset != "quick")
    between = f"{settings.shortest} to {settings.longest} words between"
    told: dict[str, tuple[str, dict[str, Any], str]] = {
        "rnn": (
            f"RNN, {between}",
            verdict(0.0, "document", at_most(0.1)),
            "It answers by guessing: no gradient arrives at the word that decides.",
        ),
        "lstm": (
            f"LSTM, forget bias 1, {between}",
            verdict(1.0, "document", at_least(0.9)),
            "",
        ),
        "gru": (f"GRU, {between}", verdict(1.0, "document", at_least(0.9)), ""),
        "rnn_near": (
            "RNN where the dish is near, 1 to 4 words between",
            verdict(1.0, "computed", at_least(0.9)),
            "The same network where the dish is near: it is the distance that defeats it.",
        ),
        "lstm_forget0": (
            f"LSTM, forget bias 0, {between}",
            {},
            "Switch: the forget gate's bias off. Its gradient halves at every step.",
        ),
        "relu": (
            f"RNN with ReLU from the identity, not clipped, {between}",
            verdict(0.0, "document", at_most(0.1)),
            "Switch: clipping off. One exploded gradient throws the weights out of reach.",
        ),
        "relu_clipped": (
            f"RNN with ReLU from the identity, clipped at 1, {between}",
            verdict(1.0, "document", at_least(0.9)),
            "Switch: clipping on. Explosion is no serious problem, clip: the document is right.",
        ),
    }
    table = [
        Row(
            f"the story understood: {title}",
            **success_rate(run.values("solved", name)),
            **verdicts,
            note=f"{SOLVED:.0%} right at every trained length. {note}".rstrip(),
        )
        for name, (title, verdicts, note) in told.items()
    ]
    table.append(
        Row(
            "the story understood: gain from a forget bias of 1",
            np.mean(run.values("solved", "lstm")) - np.mean(run.values("solved", "lstm_forget0")),
            trials=settings.trials,
            **verdict(1.0, "upstream", at_least(0.5)),
            note="Share of trials solved with the bias, less that without.",
        )
    )
    table += [
        Row(
            f"right answers, {told[name][0]}, at the most",
            **median_of(run.values("right_at_longest", name)),
            levels=(CHANCE,),
        )
        for name in told
    ]
    between = f"{min(SHOWN, settings.longest)} words between"
    equally = Level("equally by all that can be", 1 / (1 + min(SHOWN, settings.longest)))
    change = {
        "rnn": verdict(0.0, "document", at_most(equally.value)),
        "gru": verdict(1.0, "document", at_least(0.5)),
        "lstm": verdict(1.0, "document", at_least(0.5)),
    }
    for name, verdicts in change.items():
        title = told[name][0].partition(",")[0]
        table += [
            Row(
                f"the answer's change by a swapped word, share of the dish, {title}",
                **median_of(run.values("change_by_dish", name)),
                **verdicts,
                levels=(equally,),
                note=f"{between}.",
            ),
            Row(
                f"the answer's gradient by word, share of the dish, {title}",
                **median_of(run.values("gradient_on_dish", name)),
                note="Of all words. A memory that is sure of itself has a small gradient: what "
                "the answer rests on is told by swapping.",
            ),
        ]
    table += [
        Row(
            f"largest norm of a gradient, {told[name][0].partition(',')[0]}"
            f"{', clipped' if name == 'relu_clipped' else ''}",
            **median_of(run.values("gradient_norm_highest", name)),
            note="Before clipping." if name == "relu_clipped" else "",
        )
        for name in ("relu", "relu_clipped")
    ]
    return table


# -- what is shown

COLORS = {
    "rnn": plots.PALETTE[1],
    "rnn_orthogonal": plots.PALETTE[4],
    "gru": plots.PALETTE[2],
    "lstm": plots.PALETTE[0],
    "lstm_forget0": plots.PALETTE[5],
    "lstm_forget1": plots.PALETTE[0],
    "lstm_forget4": plots.PALETTE[3],
    "rnn_near": plots.PALETTE[4],
    "relu": plots.PALETTE[1],
    "relu_clipped": plots.PALETTE[2],
}
"""A network's colour, the same in all figures; forget bias 1 is the LSTM of the story."""

FIRST_TITLES = {
    "rnn": "RNN",
    "rnn_orthogonal": "RNN, orthogonal",
    "gru": "GRU",
    "lstm_forget0": "LSTM, forget bias 0",
    "lstm_forget1": "LSTM, forget bias 1",
    "lstm_forget4": "LSTM, forget bias 4",
}
READ = ("rnn", "gru", "lstm", "lstm_forget0")
"""Readers of the same long stories that differ in nothing but the cell."""


def printout(run: Run) -> str:
    """Tell one story, and each network's answer and the words that moved it."""
    words = run.of("rnn")[0].arrays["words"]
    lines = ["The story:", "  " + " ".join(WORDS[word] for word in words), ""]
    lines.append("Which swapped word changes the answer (share, median of the trials):")
    for name in READ:
        shares = _median_shares(run, name, "by_swap")
        first = np.argsort(-shares, kind="stable")[:3]
        heard = ", ".join(
            f"{WORDS[words[at]]} ({len(words) - 1 - at} steps back) {shares[at]:.0%}"
            for at in first
        )
        right = np.median(run.values("right_at_longest", name))
        lines.append(f"  {READERS[name].title:20} {right:4.0%} right at the longest;  {heard}")
    return "\n".join(lines)


def _median_shares(run: Run, name: str, which: str) -> np.ndarray:
    return np.median([_shares(trial.arrays[which]) for trial in run.of(name)], axis=0)


def figures(run: Run) -> Mapping[str, Figure]:
    """Draw the gradients by distance, the powers, the story, and the two switches."""
    return {
        "gradient_by_distance": _distance_figure(run),
        "powers": _powers_figure(run),
        "story": _story_figure(run),
        "right_by_length": _length_figure(run),
        "switches": _switches_figure(run),
    }


SMALLEST = 1e-30  # what is drawn at the least: below, float32 has no numbers left


def _distance_figure(run: Run) -> Figure:
    figure, (first, trained) = plots.new_figure(1, 2, width=11.0, height=5.2, sharey=True)
    for name, title in FIRST_TITLES.items():
        lines = np.array([t.arrays[name] for t in run.of("first_weights")])
        _fan(first, lines / lines[:, :1], title, COLORS[name])
    first.set(
        title="At the first weights, random inputs",
        xlabel="steps back from the last",
        ylabel="norm of the gradient, last step = 1",
    )
    for name in READ:
        lines = np.array([t.arrays["by_word_long"][::-1] for t in run.of(name)])
        lines = lines / np.where(lines[:, :1] > 0, lines[:, :1], 1.0)
        _fan(trained, lines, READERS[name].title, COLORS[name])
    at = run.settings.longest + 1
    trained.axvline(at, color="0.35", linestyle=":", linewidth=1.2)
    trained.annotate(
        "the dish",
        xy=(at, 0.02),
        xycoords=("data", "axes fraction"),
        xytext=(-4, 0),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color="0.25",
    )
    trained.set(title="After training on the story", xlabel="words back from the question")
    for axes in (first, trained):
        axes.set_yscale("log")
        axes.margins(x=0.01)
        axes.legend(loc="lower left", frameon=False, fontsize=9)
    first.set_ylim(SMALLEST, 1e4)
    figure.suptitle(_spread_of(run), fontsize="medium", color="0.3", ha="left", x=0.01)
    return figure


def _spread_of(run: Run) -> str:
    return f"Lines: median of {run.settings.trials} trials; shaded: from the lowest to the highest"


def _fan(axes: Any, lines: np.ndarray, label: str, color: str, style: str = "-") -> None:
    """The median over trials as a line over the distance, the spread as a band."""
    lines = np.maximum(lines, SMALLEST / 1e6)  # a logarithm has no place for zero
    back = np.arange(lines.shape[1])
    axes.fill_between(back, lines.min(axis=0), lines.max(axis=0), color=color, alpha=0.18, lw=0)
    axes.plot(back, np.median(lines, axis=0), style, color=color, linewidth=2.0, label=label)


def _powers_figure(run: Run) -> Figure:
    figure, axes = plots.new_figure()
    trial = run.of("exact")[0]
    for color, w in zip(plots.PALETTE, WEIGHTS[::-1], strict=False):
        norms = trial.arrays[f"linear_{w}"]
        back = np.arange(len(norms))
        axes.semilogy(back, norms, color=color, linewidth=2)
        axes.annotate(
            f"w = {w}: {norms[-1]:.3g}",
            xy=(back[-1], norms[-1]),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=color,
        )
        some = back[:: max(1, len(back) // 10)]
        axes.semilogy(some, w ** some.astype(float), "o", color=color, markersize=5)
    axes.plot([], [], color="0.3", linewidth=2, label="by back-propagation, 8 units")
    axes.plot([], [], "o", color="0.3", markersize=5, label="w to the power of the distance")
    axes.set_xlim(0, 1.22 * run.settings.steps)
    axes.set(
        title="The gradient of a linear net is a power of its weight",
        xlabel="steps back, T - k",
        ylabel="norm of the gradient of h_T by h_k",
    )
    axes.legend(loc="upper left", frameon=False)
    return figure


def _story_figure(run: Run) -> Figure:
    figure, panels = plots.new_figure(2, 1, width=11.5, height=6.0, sharex=True)
    words = run.of("rnn")[0].arrays["words"]
    told = (
        ("by_swap", "Which word, swapped for another, changes the answer?"),
        ("by_word", "To which word does the answer's gradient point?"),
    )
    for axes, (which, title) in zip(panels, told, strict=True):
        shares = np.array([_median_shares(run, name, which) for name in READ])
        image = axes.imshow(shares, cmap="cividis", vmin=0.0, vmax=1.0, aspect="auto")
        for line, column in np.argwhere(shares >= 0.05):
            share = shares[line, column]
            axes.text(
                column,
                line,
                f"{100 * share:.0f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if share < 0.6 else "black",
            )
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_title(title)
        right = [np.median(run.values("right_at_longest", name)) for name in READ]
        axes.set_yticks(
            range(len(READ)),
            [f"{READERS[n].title}: {r:.0%} right" for n, r in zip(READ, right, strict=True)],
        )
    axes.set_xticks(
        range(len(words)),
        [WORDS[word] for word in words],
        rotation=55,
        ha="right",
        rotation_mode="anchor",
        fontsize=9,
    )
    axes.get_xticklabels()[DISH_AT].set_color(plots.PALETTE[1])
    axes.get_xticklabels()[DISH_AT].set_weight("bold")
    bar = figure.colorbar(image, ax=panels, location="right", aspect=40)
    bar.set_label(f"share of all words (in %: where 5 or more), median of {run.settings.trials}")
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    return figure


def _length_figure(run: Run) -> Figure:
    figure, axes = plots.new_figure(height=5.0)
    styles = {
        "rnn_near": ("-.", "v"),
        "rnn": ("-", "o"),
        "lstm": ("-", "s"),
        "gru": ("--", "o"),
        "lstm_forget0": (":", "^"),
    }
    for name, (style, marker) in styles.items():
        trials = run.of(name)
        lengths = trials[0].arrays["lengths"]
        right = np.array([t.arrays["right"] for t in trials])
        axes.fill_between(
            lengths, right.min(axis=0), right.max(axis=0), color=COLORS[name], alpha=0.15, lw=0
        )
        axes.plot(
            lengths,
            np.median(right, axis=0),
            style,
            marker=marker,
            markersize=4,
            color=COLORS[name],
            linewidth=2,
            label=READERS[name].title,
        )
    axes.axvline(run.settings.longest, color="0.35", linestyle=":", linewidth=1.2)
    axes.annotate(
        "longest trained",
        xy=(run.settings.longest, 0.385),
        xytext=(4, 0),
        textcoords="offset points",
        fontsize=9,
        color="0.25",
    )
    plots.reference_levels(axes, [CHANCE])
    axes.set(
        title="The farther the dish, the fewer right answers?",
        xlabel="words between the dish and the question",
        ylabel="right answers",
        ylim=(0.35, 1.03),
    )
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(_spread_of(run), fontsize="medium", color="0.3", ha="left", x=0.01)
    return figure


def _switches_figure(run: Run) -> Figure:
    figure, panels = plots.new_figure(1, 3, width=13.0, height=4.4)
    pairs = (
        ("The forget gate's bias", ("lstm", "lstm_forget0"), "right"),
        ("Clipping the gradient", ("relu_clipped", "relu"), "right"),
        ("Its norm before clipping", ("relu_clipped", "relu"), "gradient_norm"),
    )
    for axes, (title, names, metric) in zip(panels, pairs, strict=True):
        for name, style in zip(names, ("-", "--"), strict=True):
            updates, values = run.curve(metric, name)
            if metric == "gradient_norm":
                values = np.where(np.isfinite(values), values, np.nan)
            plots.curves(
                axes,
                updates,
                values,
                label=READERS[name].title.removeprefix("RNN with ReLU, "),
                color=COLORS[name],
                style=style,
            )
        axes.set(title=title, xlabel="updates")
        if metric == "right":
            axes.set(ylabel="right answers in training", ylim=(0.35, 1.2))
            axes.set_yticks([0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        else:
            axes.set_yscale("log")
            axes.set_ylabel("largest norm of 50 updates")
            low, high = axes.get_ylim()
            axes.set_ylim(low, high * (high / low) ** 0.25)
        axes.legend(loc="upper right", frameon=False, fontsize=8)
    return figure


TASK = Task(
    name="vanishing",
    documents=("000", "002", "004"),
    title="what decides was said long ago: gradients that vanish, explode, or are carried",
    claim=(
        "The documents' lecture tells of red-braised ribs: the dish is named in the first "
        "sentence, many words about cooking follow, and at the end one asks which dish it was. The "
        "simple recurrent network has forgotten; its error, on the way back, is multiplied by the "
        "same weights again and again, so that it vanishes (0.99^999 = 4.4e-5) or explodes "
        "(1.01^999 = 2.1e4). LSTM and GRU remember, because their cell carries the error past the "
        "steps. Exploding is the smaller evil: clip. Document 004 adds the bound of 1997: in a "
        "logistic net whose weights are all below 4/n the gradient must vanish.\n\n"
        "What the story leaves out. An LSTM does not carry the error by itself: through the cell "
        "it is multiplied by the forget gates, and these start half open. At the usual first "
        "weights, without a bias for the forget gate, the gradient of an LSTM vanishes as fast as "
        "that of a simple network with orthogonal weights, and no story is learnt. With a bias of "
        "1, TensorFlow's and Keras' habit, it is. A GRU starts half open, too, yet learns: a "
        "little of the gradient is enough for Adam where some of the stories are short."
    ),
    equations=(
        "h_t = w Q h_(t-1) + x_t, Q orthogonal:  |dh_T/dh_k| = w^(T-k)\n"
        "y_1000 = w^999,  dy/dw = 999 w^998\n"
        "LSTM, h detached:  dc_T/dc_k = f_T ... f_(k+1)       GRU, z -> 1:  dh_T/dh_k -> 1\n"
        "logistic net:  |flow over q steps| <= n tau^q,  tau = n w_max / 4\n"
        "story: today I cook DISH, 10 to 50 words, which dish?     Adam on the cross-entropy\n"
        "margin = right logit - mean logit;  by word: |d margin / d x_t|, and |change of margin|\n"
        "clip: g <- g min(1, 1 / |g|)"
    ),
    look_for=(
        "story.png: where each network's answer looks. gradient_by_distance.png: straight lines "
        "on the logarithmic axis are constant factors a step; left, before training, only a large "
        "forget bias is level; right, after it, LSTM and GRU have learnt to carry the error to the "
        "dish, and the RNN, which got no error from there, has not. right_by_length.png: the RNN "
        "does understand a story in which the dish is near, and LSTM and GRU understand stories "
        "twice as long as any they were trained on. switches.png: the forget gate's bias, and "
        "clipping for a network that starts at the identity: one exploded gradient is enough to "
        "ruin it, and cut down to 1 it does no harm."
    ),
    settings=VanishingSettings,
    presets={
        "quick": VanishingSettings(trials=2, updates=20, longest=20),
        "document": VanishingSettings(),
    },
    durations={"quick": "3 s", "document": "5 min"},
    train=train,
    rows=rows,
    levels=lambda settings: (CHANCE,),
    variants=lambda settings: ("exact", "first_weights", *READERS),
    figures=figures,
    printout=printout,
)
