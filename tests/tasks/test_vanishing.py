"""The red-braised ribs as numbers: the closed forms, the story, and faults that must show."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from backends import device  # noqa: F401 - a fixture
from hypothesis import given, settings
from hypothesis import strategies as st

import microtensor as mt
from microtensor import nn
from microtensor.recurrence import cell
from models.vanishing import StoryReader, first_cells, lstm_cell, rnn_cell
from tasks import vanishing
from tasks.vanishing import (
    DISH_AT,
    DISHES,
    FILLERS,
    READERS,
    WORDS,
    VanishingSettings,
    change_by_word,
    factor_of,
    gradient_by_distance,
    gradient_by_word,
    linear_norms,
    logistic_bound,
    stories,
    train,
)
from tasks.work import Hooks, Interrupted, Work

seeds = st.integers(0, 2**32 - 1)


# -- closed forms


@given(seeds, st.floats(0.5, 1.5), st.integers(1, 5), st.integers(0, 12))
def test_a_linear_net_multiplies_by_its_weight(seed, w, units, steps):
    norms = linear_norms(w, units, steps, mt.Generator(seed))
    np.testing.assert_allclose(norms, w ** np.arange(steps + 1.0), rtol=1e-12)


@given(seeds, st.integers(1, 6), st.integers(1, 10))
def test_the_bound_of_1997_holds(seed, units, steps):
    assert 0 < logistic_bound(units, steps, mt.Generator(seed)) <= 1


@given(seeds)
@settings(max_examples=10)
def test_the_cells_path_is_the_product_of_forget_gates(seed):
    assert vanishing.cell_error(3, 8, mt.Generator(seed)) <= 1e-10


def test_jacobians_are_products_of_the_steps_slopes():
    """Of the simple cell, against the chain rule written out in NumPy."""
    module, xs = rnn_cell(5, mt.Generator(1)), mt.Generator(2).normal((7, 5), np.float64)
    w, u, b, c = (p.detach().numpy() for p in module.parameters())
    h, slopes = np.zeros(5), []
    for x in xs:
        h = np.tanh(w @ x + b + u @ h + c)
        slopes.append((1 - h * h)[:, None])
    expected, back = [], np.eye(5)
    for slope in slopes[::-1]:
        expected.append(np.linalg.norm(back @ (slope * w)))
        back = back @ (slope * u)
    np.testing.assert_allclose(gradient_by_distance(module, xs), expected, rtol=1e-10)


@pytest.mark.parametrize("name", first_cells)
def test_gradients_by_distance_against_differences(name):
    module, xs = first_cells[name](3, mt.Generator(1)), mt.Generator(2).normal((4, 3), np.float64)

    def last(inputs):
        state = None
        for x in inputs:
            state = module(mt.tensor(x[None]), state)
        return (state[0] if isinstance(state, tuple) else state).detach().numpy()[0]

    jacobian = np.zeros((3, 3))
    for j in range(3):
        step = np.zeros_like(xs)
        step[1, j] = 1e-6
        jacobian[:, j] = (last(xs + step) - last(xs - step)) / 2e-6
    norms = gradient_by_distance(module, xs)
    assert norms.shape == (4,)
    assert norms[2] == pytest.approx(np.linalg.norm(jacobian), rel=1e-6)


@given(st.floats(0.3, 1.2), st.floats(0.1, 10), st.integers(20, 60))
def test_the_factor_of_a_geometric_sequence(ratio, first, steps):
    assert factor_of(first * ratio ** np.arange(steps)) == pytest.approx(ratio, rel=1e-9)


# -- the networks


def test_first_biases():
    for bias in (0.0, 4.0):
        module = lstm_cell(6, mt.Generator(3), bias)
        plain = lstm_cell(6, mt.Generator(3))
        added = module.bias_ih.detach().numpy() - plain.bias_ih.detach().numpy()
        np.testing.assert_allclose(added, np.repeat([0, bias, 0, 0], 6), atol=1e-12)
    orthogonal = first_cells["rnn_orthogonal"](6, mt.Generator(3)).weight_hh.detach().numpy()
    np.testing.assert_allclose(orthogonal @ orthogonal.T, np.eye(6), atol=1e-12)


def test_the_readers():
    generator = mt.Generator(0)
    relu = StoryReader("relu", 9, 2, 5, generator=generator)
    np.testing.assert_array_equal(relu.recurrent.weight_hh_l0.detach().numpy(), np.eye(5))
    assert not relu.recurrent.bias_ih_l0.detach().numpy().any()
    for kind, layer in (("rnn", nn.RNN), ("lstm", nn.LSTM), ("gru", nn.GRU)):
        model = StoryReader(kind, 9, 2, 5, generator=generator)
        assert type(model.recurrent) is layer
        assert model(np.zeros((4, 3), "int64")).shape == (3, 2)
    with pytest.raises(ValueError, match="kind must be"):
        StoryReader("elman", 9, 2, generator=generator)


# -- the story


@given(seeds, st.integers(0, 30), st.integers(1, 20))
def test_a_story_names_its_dish_first_and_asks_last(seed, length, count):
    words, dish = stories(mt.Generator(seed), length, count)
    assert words.shape == (DISH_AT + 1 + length + 1, count)
    assert set(np.unique(dish)) <= set(range(len(DISHES)))
    for told, answer in zip(words.T, dish, strict=True):
        spoken = [WORDS[word] for word in told]
        assert " ".join(spoken[:DISH_AT]) == "today I cook"
        assert spoken[DISH_AT] == DISHES[answer]
        assert set(spoken[DISH_AT + 1 : -1]) <= set(FILLERS)  # nothing else tells the dish
        assert spoken[-1] == "which dish?"


def test_lengths_that_are_tested():
    settings_ = VanishingSettings()
    assert vanishing.tested_lengths(READERS["lstm"], settings_) == [10, 20, 30, 40, 50, 100]
    assert vanishing.tested_lengths(READERS["rnn_near"], settings_) == [1, 2, 3, 4, 8]


def test_the_gradient_by_word_against_differences():
    model = StoryReader("gru", len(WORDS), 2, 6, generator=mt.Generator(2)).astype("float64")
    words, dish = stories(mt.Generator(5), 3, 1)
    with mt.no_grad():
        vectors = model.embedding(words).numpy()

    def margin(embedded):
        with mt.no_grad():
            logits = model.read(mt.tensor(embedded)).numpy()[0]
        return logits[dish[0]] - logits.mean()

    found = gradient_by_word(model, words, dish)
    for t in range(len(words)):
        slopes = []
        for j in range(vectors.shape[-1]):
            step = np.zeros_like(vectors)
            step[t, 0, j] = 1e-6
            slopes.append((margin(vectors + step) - margin(vectors - step)) / 2e-6)
        assert found[t] == pytest.approx(np.linalg.norm(slopes), rel=1e-5)


def test_who_listens_to_the_dish_is_told_so():
    def attentive(words):
        return mt.tensor(np.eye(2)[words[DISH_AT] - DISH_AT])

    def forgetful(words):  # by the last word before the question
        return mt.tensor(np.eye(2)[words[-2] % 2])

    words, dish = stories(mt.Generator(1), 6, 50)
    moved = change_by_word(attentive, words, dish, mt.Generator(2))
    np.testing.assert_array_equal(np.flatnonzero(moved), [DISH_AT])
    assert moved[DISH_AT] == 1.0  # from half a logit ahead to half a logit behind
    moved = change_by_word(forgetful, words, dish, mt.Generator(2))
    np.testing.assert_array_equal(np.flatnonzero(moved), [len(words) - 2])


SHORT = VanishingSettings(trials=1, updates=160, shortest=6, longest=12, hidden_size=24)


def told(variant, **changed):
    [trial] = train(Work(dataclasses.replace(SHORT, **changed), variant))
    return trial


def test_a_memory_understands_what_a_simple_network_does_not():
    lstm, rnn = told("lstm"), told("rnn", updates=60)
    assert lstm.values["solved"]
    assert lstm.values["change_by_dish"] > 0.5
    assert not rnn.values["solved"]
    assert rnn.values["change_by_dish"] < 0.1


def test_clipping_saves_what_explodes():
    clipped, free = told("relu_clipped", longest=20), told("relu", longest=20)
    assert clipped.values["solved"]
    assert clipped.values["gradient_norm_highest"] > 1  # there was something to clip
    assert not free.values["solved"]


def test_a_clipped_norm_is_one(monkeypatch):
    norms = []
    real = mt.optim.SGD.step

    def step(self):
        grads = [p.grad.numpy() for group in self.param_groups for p in group["params"]]
        norms.append(math.sqrt(sum(float((g * g).sum()) for g in grads)))
        real(self)

    monkeypatch.setattr(mt.optim.SGD, "step", step)
    told("relu_clipped", updates=20)
    assert max(norms) == pytest.approx(1.0, abs=1e-3)
    norms.clear()
    told("relu", updates=20)
    assert max(norms) > 1.5


# -- the experiment


def test_quick_judges_what_needs_no_training(tasks_cli: Any) -> None:
    done = tasks_cli("run vanishing --preset quick --updates 5 --check --json")
    assert done.code == 0, done.stderr
    rows = {row["name"]: row for row in done.json["rows"]}
    judged = {name for name, row in rows.items() if row["ok"] is not None}
    assert not any("story" in name or "answer" in name for name in judged)
    assert len(judged) == 4 + 4 + 3 + 6
    assert rows["0.99^999: the last output"]["value"] == pytest.approx(4.36073e-5, rel=2e-6)
    assert rows["1.01^999: the last output"]["value"] == pytest.approx(2.07516e4, rel=2e-6)
    slopes = (rows["999 · 0.99^998: its gradient by the weight"]["value"],
              rows["999 · 1.01^998: its gradient by the weight"]["value"])  # fmt: skip
    assert slopes == pytest.approx((4.40e-2, 2.0526e7), rel=1e-3)
    assert "today I cook" in done.stderr
    figures = sorted(path.name for path in done.out.rglob("*.png"))
    assert figures == [
        "gradient_by_distance.png",
        "powers.png",
        "right_by_length.png",
        "story.png",
        "switches.png",
    ]


FEW = "run vanishing --trials 1 --updates 2 --shortest 1 --longest 4 --no-plots --check --json"


def test_a_learning_rate_of_zero_fails(tasks_cli: Any) -> None:
    done = tasks_cli(f"{FEW} --learning-rate 0 --sgd-learning-rate 0")
    assert done.code == 1
    ok = {row["name"]: row["ok"] for row in done.json["rows"]}
    for kind in ("LSTM, forget bias 1, 1 to 4", "GRU, 1 to 4", "RNN where"):
        assert False in [row for name, row in ok.items() if kind in name], kind
    assert all(ok[name] for name in ok if name.startswith(("linear", "0.99^", "LSTM: largest")))


def test_a_leaking_cell_fails(tasks_cli: Any, monkeypatch: Any) -> None:
    @cell(gates=("i", "f", "g", "o"), state=("h", "c"))
    def leaky(i, f, g, o, c):
        c = 0.999999 * mt.sigmoid(f) * c + mt.sigmoid(i) * mt.tanh(g)
        return mt.sigmoid(o) * mt.tanh(c), c

    def build(size, generator, forget_bias):
        module = lstm_cell(size, generator, forget_bias)
        module.cell = leaky
        return module

    monkeypatch.setattr(vanishing, "lstm_cell", build)
    done = tasks_cli(FEW + " --preset quick")
    assert done.code == 1
    [missed] = [row["name"] for row in done.json["rows"] if row["ok"] is False]
    assert missed.startswith("LSTM: largest relative error of dc_T/dc_k")


def test_a_half_open_update_gate_fails(tasks_cli: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(vanishing, "SHORT_CIRCUIT", 8.0)
    done = tasks_cli(FEW + " --preset quick")
    assert done.code == 1
    [missed] = [row["name"] for row in done.json["rows"] if row["ok"] is False]
    assert missed.startswith("GRU, update gate at one")


@pytest.mark.parametrize(
    "slip",
    ["--updates 0", "--steps 5", "--shortest 9 --longest 8", "--learning-rate -1", "--steps 2000"],
)
def test_settings_that_make_no_sense_are_refused(tasks_cli: Any, slip: str) -> None:
    assert tasks_cli(f"run vanishing {slip}").code == 2


def test_an_interruption_changes_no_bit(tmp_path):
    settings_ = dataclasses.replace(SHORT, updates=9, longest=7)
    work = Work(settings_, "gru")
    [whole] = train(work)
    left = iter(range(1, 10**9))
    path = tmp_path / "unit.safetensors"
    with pytest.raises(Interrupted):
        train(Work(settings_, "gru", checkpoint=path, hooks=Hooks(stop=lambda: next(left) == 4)))
    again = Work(settings_, "gru", checkpoint=path, resume=True)
    [resumed] = train(again)
    assert resumed.values == whole.values
    assert again.metrics == work.metrics
    for name, value in whole.model.items():
        np.testing.assert_array_equal(resumed.model[name].numpy(), value.numpy())


@pytest.mark.parametrize("variant", ["exact", "first_weights", "lstm"])
def test_it_works_alike_on_every_backend(device, variant):  # noqa: F811
    settings_ = dataclasses.replace(SHORT, updates=3, steps=10, longest=6)
    [host] = train(Work(settings_, variant))
    with device():
        [there] = train(Work(settings_, variant, backend=device.name))
    assert there.values == pytest.approx(dict(host.values), rel=1e-4, abs=1e-9)
