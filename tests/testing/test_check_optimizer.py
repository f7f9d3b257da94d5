"""The check of optimizers is checked: what is right passes, every mistake planted here is found."""

import contextlib
import copy
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtensor import optim
from microtensor.testing import GradientError, OptimizerReport, check_optimizer

seeds = st.integers(0, 2**32 - 1)
fewer = settings(max_examples=settings.default.max_examples // 8)  # there are many mistakes
LR, MU, DECAY = 0.1, 0.9, 0.05
BETA1, BETA2, EPS = 0.9, 0.99, 1e-8  # with these the corrections cancel in the first step


class Plain:
    """An optimizer as one would write it for oneself; the mistakes below override a part of it."""

    def __init__(self, parameters):
        self.parameters = list(parameters)
        self.slots = [{} for _ in self.parameters]

    def slot(self, i):
        return self.slots[i]

    def step(self):
        for i, p in enumerate(self.parameters):
            if p.grad is not None:
                self.update(p, p.grad.data, self.slot(i))

    def state_dict(self):
        return copy.deepcopy(self.slots)

    def load_state_dict(self, slots):
        self.slots = copy.deepcopy(slots)


class Momentum(Plain):
    """Weight decay and momentum."""

    def update(self, p, g, slot):
        slot["b"] = self.velocity(slot, g + DECAY * p.data)
        p.data[...] -= LR * slot["b"]

    def velocity(self, slot, g):
        return MU * slot.get("b", 0.0) + g


def momentum(weight, gradients):
    """Written as a double sum: what each gradient still moves after s steps."""
    seen = []
    for gradient in gradients:
        seen.append(gradient + DECAY * weight)
        weight = weight - LR * sum(MU**age * g for age, g in enumerate(reversed(seen)))
    return weight


class Adam(Plain):
    """Without weight decay."""

    lr = 0.01
    beta1, beta2, eps = BETA1, BETA2, EPS
    kept = np.float64  # wider than float32 does no harm

    def update(self, p, g, slot):
        t = slot["t"] = slot.get("t", 0) + 1
        b1, b2 = self.beta1, self.beta2
        m = slot["m"] = np.asarray(b1 * slot.get("m", 0.0) + (1 - b1) * g, self.kept)
        v = slot["v"] = np.asarray(b2 * slot.get("v", 0.0) + (1 - b2) * g * g, self.kept)
        p.data[...] -= self.move(m, v, t)

    def move(self, m, v, t):
        return self.lr * m / (1 - self.beta1**t) / (np.sqrt(v / (1 - self.beta2**t)) + self.eps)


def adam(weight, gradients):
    """Both means as weighted sums over all that was seen."""
    moves = []
    for t in range(1, len(gradients) + 1):
        ages = [(t - s, g) for s, g in enumerate(gradients[:t], 1)]
        mean = sum(BETA1**age * g for age, g in ages) / sum(BETA1**age for age, _ in ages)
        square = sum(BETA2**age * g * g for age, g in ages) / sum(BETA2**age for age, _ in ages)
        moves.append(mean / (np.sqrt(square) + EPS))
    return weight - 0.01 * sum(moves)


# -- mistakes


class Climbs(Momentum):
    def update(self, p, g, slot):
        slot["b"] = self.velocity(slot, g + DECAY * p.data)
        p.data[...] += LR * slot["b"]


class ForgetsItsMomentum(Momentum):
    def velocity(self, slot, g):
        return g


class TooMuchMomentum(Momentum):
    def velocity(self, slot, g):
        return 0.91 * slot.get("b", 0.0) + g


class Dampens(Momentum):
    def velocity(self, slot, g):
        return MU * slot["b"] + (1 - MU) * g if "b" in slot else g


class ForgetsDecay(Momentum):
    def update(self, p, g, slot):
        slot["b"] = self.velocity(slot, g)
        p.data[...] -= LR * slot["b"]


class DecaysTwice(Momentum):
    def update(self, p, g, slot):
        slot["b"] = self.velocity(slot, g + 2 * DECAY * p.data)
        p.data[...] -= LR * slot["b"]


class DecaysAfterwards(Momentum):
    def update(self, p, g, slot):
        slot["b"] = self.velocity(slot, g)
        p.data[...] -= LR * slot["b"]
        p.data[...] -= LR * DECAY * p.data


class DecaysInThePlaceOfMomentum(Momentum):
    def update(self, p, g, slot):
        slot["b"] = self.velocity(slot, g)
        p.data[...] -= LR * (slot["b"] + DECAY * p.data)


class LooksAhead(Momentum):
    def update(self, p, g, slot):
        g = g + DECAY * p.data
        slot["b"] = self.velocity(slot, g)
        p.data[...] -= LR * (g + MU * slot["b"])


class TwiceTheRate(Momentum):
    def update(self, p, g, slot):
        slot["b"] = self.velocity(slot, g + DECAY * p.data)
        p.data[...] -= 2 * LR * slot["b"]


class OneStepLate(Momentum):
    def update(self, p, g, slot):
        p.data[...] -= LR * slot.get("b", 0.0)
        slot["b"] = self.velocity(slot, g + DECAY * p.data)


class SharesOneBuffer(Momentum):
    def slot(self, i):
        alike = [p.shape == self.parameters[i].shape for p in self.parameters]
        return self.slots[alike.index(True)]


class StandsStill(Momentum):
    def update(self, p, g, slot):
        pass


class ForgetsTheLast(Momentum):
    def step(self):
        for i, p in enumerate(self.parameters[:3]):
            if p.grad is not None:
                self.update(p, p.grad.data, self.slot(i))


class AddsDecayToTheGradient(Momentum):
    def update(self, p, g, slot):
        g += DECAY * p.data
        slot["b"] = self.velocity(slot, g)
        p.data[...] -= LR * slot["b"]


class KeepsTheGradientAndWritesIntoIt(Plain):
    def update(self, p, g, slot):
        if "b" in slot:
            slot["b"] *= MU
            slot["b"] += g
        else:
            slot["b"] = g
        p.data[...] -= LR * slot["b"]


class KeepsTheGradient(Plain):
    def update(self, p, g, slot):
        slot["b"] = MU * slot["b"] + g if "b" in slot else g
        p.data[...] -= LR * slot["b"]


class GoesOnWithoutAGradient(Momentum):
    def step(self):
        for i, p in enumerate(self.parameters):
            g = np.zeros_like(p.data) if p.grad is None else p.grad.data
            self.update(p, g, self.slot(i))


class DecaysWithoutAGradient(Momentum):
    def step(self):
        super().step()
        for p in self.parameters:
            if p.grad is None:
                p.data[...] *= 1 - LR * DECAY


class RemembersAZero(Momentum):
    """The weight stays, the momentum does not."""

    def step(self):
        super().step()
        for p, slot in zip(self.parameters, self.slots, strict=True):
            if p.grad is None and "b" in slot:
                slot["b"] = MU * slot["b"]


class NarrowsTheWeight(Momentum):
    def update(self, p, g, slot):
        super().update(p, g, slot)
        p.data = p.data.astype(np.float32)


class WidensTheWeight(Momentum):
    def update(self, p, g, slot):
        super().update(p, g, slot)
        p.data = p.data.astype(np.float64)


class AddsAnAxis(Momentum):
    def update(self, p, g, slot):
        super().update(p, g, slot)
        p.data = p.data[None]


class SavesTooLittle(Momentum):
    def load_state_dict(self, slots):
        pass


class SavesItsOwnMemory(KeepsTheGradientAndWritesIntoIt):
    def update(self, p, g, slot):
        super().update(p, g.copy(), slot)

    def state_dict(self):
        return [dict(slot) for slot in self.slots]


class LoadsForeignMemory(SavesItsOwnMemory):
    def state_dict(self):
        return copy.deepcopy(self.slots)

    def load_state_dict(self, slots):
        self.slots = [dict(slot) for slot in slots]


def plain_momentum(weight, gradients):
    ages = range(len(gradients), 0, -1)  # a gradient moves the weight in its own step and later
    return weight - LR * sum(
        (1 - MU**age) / (1 - MU) * g for age, g in zip(ages, gradients, strict=True)
    )


class NoBiasCorrection(Adam):
    def move(self, m, v, t):
        return self.lr * m / (np.sqrt(v) + EPS)


class OneBiasCorrection(Adam):
    def move(self, m, v, t):
        return self.lr * m / (np.sqrt(v / (1 - BETA2**t)) + EPS)


class CountsFromTwo(Adam):
    def move(self, m, v, t):
        return super().move(m, v, t + 1)


class CountsFromZero(Adam):
    def move(self, m, v, t):
        return super().move(m, v, np.float64(t - 1))


class EpsilonInsideTheRoot(Adam):
    def move(self, m, v, t):
        return self.lr * m / (1 - BETA1**t) / np.sqrt(v / (1 - BETA2**t) + EPS)


class EpsilonBeforeTheCorrection(Adam):
    def move(self, m, v, t):
        return self.lr * m * np.sqrt(1 - BETA2**t) / (1 - BETA1**t) / (np.sqrt(v) + EPS)


class SmallerEpsilon(Adam):
    eps = 1e-10


class WrongFirstBeta(Adam):
    beta1 = 0.91


class WrongSecondBeta(Adam):
    beta2 = 0.991


class TheLargestSoFar(Adam):
    def update(self, p, g, slot):
        super().update(p, g, slot)
        slot["v"] = np.maximum(slot["v"], slot.get("u", 0.0))
        slot["u"] = slot["v"]


class KeptInSinglePrecision(Adam):
    kept = np.float32


class CountsForAll(Adam):
    """One count for all parameters, so that a pause is a step too."""

    def step(self):
        self.t = getattr(self, "t", 0) + 1
        super().step()

    def move(self, m, v, t):
        return super().move(m, v, self.t)

    def state_dict(self):
        return copy.deepcopy((self.slots, self.t))

    def load_state_dict(self, state):
        self.slots, self.t = copy.deepcopy(state)


class CountsEveryParameter(CountsForAll):
    """One count for all, and it goes on with every parameter."""

    def step(self):
        Plain.step(self)

    def update(self, p, g, slot):
        self.t = getattr(self, "t", 0) + 1
        super().update(p, g, slot)


MISTAKES = [
    (Climbs, momentum, "wrong_update", "sign"),
    (ForgetsItsMomentum, momentum, "wrong_update", "state"),
    (TooMuchMomentum, momentum, "wrong_update", "state"),
    (Dampens, momentum, "wrong_update", "state"),
    (ForgetsDecay, momentum, "wrong_update", "decay"),
    (DecaysTwice, momentum, "wrong_update", "decay"),
    (DecaysAfterwards, momentum, "wrong_update", None),
    (DecaysInThePlaceOfMomentum, momentum, "wrong_update", None),
    (LooksAhead, momentum, "wrong_update", "factor"),
    (TwiceTheRate, momentum, "wrong_update", "factor"),
    (OneStepLate, momentum, "wrong_update", "shift"),
    (SharesOneBuffer, momentum, "wrong_update", "shared"),
    (StandsStill, momentum, "wrong_update", "cut"),
    (ForgetsTheLast, momentum, "wrong_update", "shared"),
    (AddsDecayToTheGradient, momentum, "mutated_input", ""),
    (KeepsTheGradientAndWritesIntoIt, plain_momentum, "aliased_gradient", ""),
    (KeepsTheGradient, plain_momentum, "aliased_gradient", ""),
    (GoesOnWithoutAGradient, momentum, "wrong_update", "state"),
    (DecaysWithoutAGradient, momentum, "wrong_update", "state"),
    (RemembersAZero, momentum, "wrong_update", "state"),
    (NarrowsTheWeight, momentum, "dtype", ""),
    (WidensTheWeight, momentum, "dtype", ""),
    (AddsAnAxis, momentum, "shape", ""),
    (SavesTooLittle, momentum, "wrong_update", "state"),
    (SavesItsOwnMemory, plain_momentum, "wrong_update", "state"),
    (LoadsForeignMemory, plain_momentum, "wrong_update", "state"),
    (NoBiasCorrection, adam, "wrong_update", "factor"),
    (OneBiasCorrection, adam, "wrong_update", "factor"),
    (CountsFromTwo, adam, "wrong_update", "shift"),
    (CountsFromZero, adam, "nan", ""),
    (EpsilonInsideTheRoot, adam, "wrong_update", "epsilon"),
    (EpsilonBeforeTheCorrection, adam, "wrong_update", "epsilon"),
    (SmallerEpsilon, adam, "wrong_update", "epsilon"),
    (WrongFirstBeta, adam, "wrong_update", "state"),
    (WrongSecondBeta, adam, "wrong_update", "state"),
    (TheLargestSoFar, adam, "wrong_update", "state"),
    (KeptInSinglePrecision, adam, "wrong_update", "precision"),
    (CountsForAll, adam, "wrong_update", "state"),
    (CountsEveryParameter, adam, "wrong_update", "shared"),
]


@pytest.mark.parametrize(
    ("make", "formula", "verdict", "cause"), MISTAKES, ids=lambda v: getattr(v, "__name__", "")
)
@fewer
@given(rng=seeds)
def test_every_mistake_is_found_and_named(make, formula, verdict, cause, rng):
    with pytest.raises(GradientError) as caught:
        check_optimizer(make, formula, rng=rng)
    error = caught.value
    assert error.verdict == verdict, str(error)
    if cause is not None:
        assert error.cause == cause, str(error)
    assert isinstance(error.input, int)
    if error.verdict in ("wrong_update", "nan") and error.element is not None:
        assert f"parameter {error.input}, float64" in str(error)


@given(rng=seeds, make=st.sampled_from([(Momentum, momentum), (Adam, adam)]))
def test_what_is_right_passes(rng, make):
    report = check_optimizer(*make, rng=rng)
    assert report == OptimizerReport(("float64", "float32"), 6, True, report.error)
    assert 0 < report.error < 0.5  # far from where rounding would raise a false alarm


def test_the_message_tells_all_and_the_reproducer_runs():
    with pytest.raises(GradientError) as caught:
        check_optimizer(TwiceTheRate, momentum, rng=1)
    error = caught.value
    assert (error.verdict, error.cause) == ("wrong_update", "factor")
    assert error.ratio == pytest.approx(2.0)
    assert error.analytic == pytest.approx(2.0 * error.numeric)
    text = str(error)
    for piece in (
        f"parameter {error.input}, float64",
        f"after step 1 of 6 at {list(error.element)}",
        f"moved it by {error.analytic:.10g}, the formula by {error.numeric:.10g}, ratio 2\n",
        "all updates of this step are 2 times what they should be",
        error.reproducer.splitlines()[-1],
    ):
        assert piece in text
    printed = io.StringIO()
    names = {"TwiceTheRate": TwiceTheRate, "momentum": momentum}
    with contextlib.redirect_stdout(printed):
        exec(without_imports_of_tests(error.reproducer), names)
    mine, formulas = map(float, printed.getvalue().split())
    start = names["weight"].item()
    assert mine - start == pytest.approx(error.analytic)
    assert formulas - start == pytest.approx(error.numeric)


def without_imports_of_tests(code):
    return "\n".join(line for line in code.splitlines() if not line.startswith("from tests"))


@pytest.mark.parametrize("make", [SharesOneBuffer, RemembersAZero, SavesTooLittle])
def test_other_reproducers_run_too(make):
    with pytest.raises(GradientError) as caught:
        check_optimizer(make, momentum, rng=2)
    code, printed = without_imports_of_tests(caught.value.reproducer), io.StringIO()
    names = {make.__name__: make, "momentum": momentum, "check_optimizer": check_optimizer}
    if make is SavesTooLittle:  # two runs are compared, so the check itself is what shows it
        with pytest.raises(GradientError, match="continued from the state_dict after step 3"):
            exec(code, names)
        return
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    lines = printed.getvalue().replace("array(", "").splitlines()
    assert lines
    assert ("weights = [" in code) == (make is SharesOneBuffer)
    assert (None in names["gradients"]) == (make is RemembersAZero)


def test_functions_without_a_name_are_called_by_their_roles():
    with pytest.raises(GradientError) as caught:
        check_optimizer(lambda ps: optim.SGD(ps, lr=0.1), lambda w, gs: w - 0.2 * sum(gs))
    code = caught.value.reproducer
    assert "make = ...  # " in code
    assert "formula = ...  # " in code
    assert "optimizer = make([parameter])" in code
    assert "formula(weight, seen)" in code


def test_the_first_wrong_step_is_named_and_the_reproducer_ends_there():
    with pytest.raises(GradientError, match="after step 2 of 6") as caught:
        check_optimizer(TooMuchMomentum, momentum)
    starts, gradients = caught.value.inputs
    assert len(starts) == 1
    assert len(gradients) == 2


def test_one_number_is_enough_to_show_it_where_it_is():
    class WrongAtOneIndex(Momentum):
        def update(self, p, g, slot):
            super().update(p, g, slot)
            if p.shape == (3, 2):
                p.data[2, 1] *= 1.5

    with pytest.raises(
        GradientError, match=r"parameter 0, float64 \(3, 2\), .* at \[2, 1\]"
    ) as caught:
        check_optimizer(WrongAtOneIndex, momentum)
    assert caught.value.element == (2, 1)
    assert caught.value.inputs[0][0].shape == (3, 2)  # by itself that number is right


def test_parameters_live_on_the_default_backend(backend):
    with backend():
        check_optimizer(lambda ps: optim.Adam(ps, lr=0.01, betas=(BETA1, BETA2)), adam)
        with pytest.raises(GradientError, match="are 2 times what"):
            check_optimizer(lambda ps: optim.Adam(ps, lr=0.02, betas=(BETA1, BETA2)), adam)


def test_leaving_the_backend_is_noticed(device):
    class ComesHome(Momentum):
        def update(self, p, g, slot):
            p.data = np.array(device.host(p.data))

    with device(), pytest.raises(GradientError, match="changed its backend in step 1") as caught:
        check_optimizer(ComesHome, momentum)
    assert caught.value.verdict == "backend"


def test_a_loss_that_must_fall():
    def descent(parameters):
        return optim.SGD(parameters, lr=0.1)

    def ascent(parameters):
        return optim.SGD(parameters, lr=0.1, maximize=True)

    check_optimizer(descent, lambda w, gs: w - 0.1 * sum(gs), falls=20)
    check_optimizer(ascent, lambda w, gs: w + 0.1 * sum(gs))
    with pytest.raises(GradientError, match=r"does not fall: .* after 20 of them") as caught:
        check_optimizer(ascent, lambda w, gs: w + 0.1 * sum(gs), falls=20)
    assert caught.value.verdict == "wrong_update"
    with pytest.raises(GradientError, match="a learning rate too large"):
        check_optimizer(lambda ps: optim.SGD(ps, lr=3.0), lambda w, gs: w - 3.0 * sum(gs), falls=20)


def test_what_may_be_left_out():
    assert check_optimizer(CountsForAll, adam, missing=False).resumed

    class Bare:
        def __init__(self, parameters):
            self.parameters = parameters

        def step(self):
            for p in self.parameters:
                if p.grad is not None:
                    p.data[...] -= 0.1 * p.grad.data

    report = check_optimizer(Bare, lambda w, gs: w - 0.1 * sum(gs), dtype="float32", steps=3)
    assert report == OptimizerReport(("float32",), 3, False, report.error)
    check_optimizer(KeptInSinglePrecision, adam, rtol=1e-5)


def test_single_precision_is_checked_to_its_own_rounding():
    class Rough(Adam):
        lr = 0.01001

    with pytest.raises(GradientError, match="float32"):
        check_optimizer(Rough, adam, dtype=np.float32)


def test_a_formula_may_write_into_what_it_is_given():
    def descent(weight, gradients):
        for gradient in gradients:
            gradient *= 0.1
            weight -= gradient
        return weight

    check_optimizer(lambda ps: optim.SGD(ps, lr=0.1), descent)


def test_where_the_formula_is_not_finite_nothing_is_said():
    def sign(weight, gradients):
        for gradient in gradients:
            weight = weight - 0.1 * gradient / np.abs(gradient)
        return weight

    class Sign(Plain):
        def update(self, p, g, slot):
            p.data[...] -= 0.1 * g / np.abs(g)

    check_optimizer(Sign, sign)

    def half_known(weight, gradients):
        """Not finite where the last gradient is positive; in a later step it may be again."""
        return np.where(gradients[-1] > 0, np.nan, weight - 0.1 * sum(gradients))

    check_optimizer(lambda ps: optim.SGD(ps, lr=0.1), half_known)
    with pytest.raises(GradientError, match="wrong after step 1"):
        check_optimizer(lambda ps: optim.SGD(ps, lr=0.1001), half_known)


def test_the_same_seed_draws_the_same_numbers():
    reports = [check_optimizer(Adam, adam, rng=seed) for seed in (3, 3, 4)]
    assert reports[0] == reports[1]
    assert reports[0] != reports[2]


def test_calls_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="needs a parameter and a step"):
        check_optimizer(Momentum, momentum, steps=0)
    with pytest.raises(ValueError, match="needs a parameter and a step"):
        check_optimizer(Momentum, momentum, shapes=())
    with pytest.raises(
        ValueError, match=r"shape \(3, 2\) the formula returned one of shape \(2,\)"
    ):
        check_optimizer(Momentum, lambda weight, gradients: weight[0], shapes=[(3, 2)])
    with pytest.raises(ValueError, match="not int64"):
        check_optimizer(Momentum, momentum, dtype=int)
    with pytest.raises(ZeroDivisionError):  # what the optimizer itself raises comes through
        check_optimizer(lambda ps: 1 / 0, momentum)
