"""Styles of truncated back-propagation: how far each error goes, the corpus, faults that show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import device  # noqa: F401 - a fixture
from hypothesis import given, settings
from hypothesis import strategies as st

import microtensor as mt
from models.binary_echo import initial_weights
from models.truncated_bptt import EchoReader, WordReader
from tasks import truncated_bptt
from tasks.harness import UsageError
from tasks.truncated_bptt import (
    Streams,
    TruncationSettings,
    conditions,
    echo_streams,
    loss_of,
    one_loss,
    read_corpus,
    share_within,
    through_n_steps,
    through_window,
    train,
)
from tasks.work import Hooks, Interrupted, Work

seeds = st.integers(0, 2**32 - 1)


def reader(seed=0, units=3):
    return EchoReader(initial_weights(mt.Generator(seed), units, "float64"))


def by_hand(model, x, y, state, n):
    """Gradient of the sum of losses, every error n steps back: each step is read on its own."""
    total = {}
    states = [state]
    with mt.no_grad():
        for t in range(len(x)):
            _, last = through_window(model, model.embed(x[t : t + 1]), states[-1])
            states.append(last)
    for t in range(len(x)):
        first = max(0, t - n + 1)
        h = states[first]
        for step in range(first, t + 1):
            _, h = through_window_keeping(model, x[step : step + 1], h)
        loss = loss_of(model.logits(mt.expand_dims(h, 0)), y[t : t + 1]) / len(x)
        names, weights = zip(*model.named_parameters(), strict=True)
        for name, g in zip(names, mt.grad(loss, weights), strict=True):
            total[name] = total.get(name, 0) + g.numpy()
    return total


def through_window_keeping(model, x, state):
    """One step whose gradient does flow into the state."""
    _, last = model.rnn(model.embed(x), mt.expand_dims(state, 0))
    return None, last[0]


# -- the two styles


@given(seeds, st.integers(1, 7), st.integers(1, 9))
@settings(max_examples=25)
def test_every_error_goes_back_n_steps(seed, n, steps):
    model = reader(seed)
    streams = echo_streams(mt.Generator(seed), 2 * steps, 2)
    state = mt.tensor(mt.Generator(seed).normal((2, 3), np.float64))
    logits, _ = through_n_steps(model, model.embed(streams.x), state, n)
    names, weights = zip(*model.named_parameters(), strict=True)
    found = mt.grad(loss_of(logits, streams.y), weights)
    expected = by_hand(model, streams.x, streams.y, state, n)
    for name, g in zip(names, found, strict=True):
        np.testing.assert_allclose(g.numpy(), expected[name], rtol=1e-9, atol=1e-12)


@given(seeds, st.integers(1, 6), st.integers(1, 9))
@settings(max_examples=25)
def test_the_styles_say_the_same_and_agree_where_n_covers(seed, n, steps):
    model = reader(seed)
    x = echo_streams(mt.Generator(seed), 2 * steps, 2).x
    state = mt.tensor(mt.Generator(seed).normal((2, 3), np.float64))
    true, states = through_n_steps(model, model.embed(x), state, n)
    cut, last = through_window(model, model.embed(x), state)
    np.testing.assert_allclose(true.detach().numpy(), cut.detach().numpy(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(states[-1].numpy(), last.detach().numpy(), rtol=1e-12, atol=1e-13)
    weights = list(model.parameters())
    pair = [mt.grad((out * out).sum(), weights) for out in (true, cut)]
    differs = max(np.abs(a.numpy() - b.numpy()).max() for a, b in zip(*pair, strict=True))
    if n >= steps:
        assert differs <= 1e-10
    elif n < steps - 1:
        assert differs > 1e-10


@given(seeds, st.integers(1, 6), st.lists(st.integers(1, 5), min_size=1, max_size=4))
@settings(max_examples=25)
def test_a_stream_in_pieces_is_the_stream_in_one(seed, n, stretches):
    """With the weights at rest, what is carried makes no difference, of loss or of gradient."""
    model, steps = reader(seed), sum(stretches)
    streams = echo_streams(mt.Generator(seed), 2 * steps, 2)
    condition = truncated_bptt.Condition("true", n, 0.01)
    weights = list(model.parameters())
    state, parts, position = mt.zeros((2, 3), dtype="float64"), [], 0
    for stride in stretches:
        loss, state = one_loss(model, condition, streams, position, stride, {"state": state})
        parts.append([stride / steps * g.numpy() for g in mt.grad(loss, weights)])
        position += stride
    whole, _ = one_loss(
        model, condition, streams, 0, steps, {"state": mt.zeros((2, 3), dtype="float64")}
    )
    for i, g in enumerate(mt.grad(whole, weights)):
        np.testing.assert_allclose(sum(part[i] for part in parts), g.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("style", "n"), [("true", 4), ("true", 9), ("windows", 5), ("windows", 8)])
def test_reach(style, n):
    bits = mt.Generator(1).integers(0, 2, (80, 1))
    found = truncated_bptt.reach(reader(2, 5), style, n, bits)
    assert found == {delay: share_within(style, n, delay) for delay in (3, 8)}


def test_shares_as_the_document_has_them():
    assert share_within("windows", 5, 3) == 2 / 5
    assert share_within("windows", 10, 8) == 2 / 10
    assert share_within("windows", 5, 8) == share_within("true", 8, 8) == 0
    assert share_within("true", 9, 8) == 1


# -- the gradient by distance


def test_the_parts_by_distance_add_up_to_the_gradient():
    generator = mt.Generator(3)
    model = WordReader(30, 6, 4, dropout=0.0, dtype="float64", generator=generator)
    x = model.embed(generator.integers(0, 30, (7, 5)))
    state = mt.tensor(generator.normal((5, 4), np.float64))
    targets = generator.integers(0, 30, (5,))
    parts = truncated_bptt.parts_by_distance(model, x, state, targets)
    states, _ = model.rnn(x, mt.expand_dims(state, 0))
    weights = [model.rnn.weight_ih_l0, model.rnn.weight_hh_l0]
    whole = mt.grad(loss_of(model.logits(states[-1]), targets), weights)
    for own, gradient in zip(zip(*parts, strict=True), whole, strict=True):
        np.testing.assert_allclose(sum(own), gradient.numpy(), rtol=1e-10, atol=1e-15)
    # The nearest part is the last step's: the gradient if everything before it is given.
    last, _ = model.rnn(x[-1:], mt.expand_dims(mt.detach(states[-2]), 0))
    nearest = mt.grad(loss_of(model.logits(last[-1]), targets), weights)
    for own, gradient in zip(parts[0], nearest, strict=True):
        np.testing.assert_allclose(own, gradient.numpy(), rtol=1e-10, atol=1e-15)


def test_small_states_start_with_small_recurrent_weights():
    for units, lowest, highest in ((4, 1.3, 8.0), (100, 0.9, 1.4)):
        ratios = []
        for seed in range(5):
            norms = truncated_bptt.norms_by_distance(units, 50, mt.Generator(seed), 12)
            ratios.append((norms[0] / norms[-1]) ** (1 / 11))
        assert lowest < np.median(ratios) < highest
    assert pytest.approx(3.07, abs=0.01) == truncated_bptt.UPSTREAM_RATIO


# -- settings and the corpus


def test_the_table_of_conditions():
    names = list(conditions(TruncationSettings()))
    assert len(names) == 7 * 3
    assert "true5_lr0.01" in names
    assert "windows40_lr0.003" in names
    assert "true40_lr0.01" not in names
    condition = conditions(TruncationSettings())["true10_lr0.01"]
    assert truncated_bptt.between_updates(condition, TruncationSettings()) == 10
    assert truncated_bptt.between_updates(condition, TruncationSettings(updates="original")) == 30


TEXT = "the cat sat on the mat\nthe dog sat on the log\n" * 40


def test_words_are_numbered_by_frequency(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    corpus = read_corpus(str(path))
    words = TEXT.replace("\n", " <eos> ").split()
    assert corpus.train.size + corpus.valid.size == len(words)
    assert corpus.valid.size == pytest.approx(len(words) / 10, abs=1)
    assert corpus.words == len(set(words)) + 1  # and the unknown word
    [the] = {n for n, w in zip(corpus.train, words, strict=False) if w == "the"}
    assert the == 0  # the most frequent one
    assert corpus.train.max() < corpus.words


def test_a_folder_of_the_penn_treebank(tmp_path):
    (tmp_path / "ptb.train.txt").write_text(TEXT)
    (tmp_path / "ptb.valid.txt").write_text("the cow sat\n" * 9)
    corpus = read_corpus(str(tmp_path))
    assert corpus.train.size == len(TEXT.replace("\n", " <eos> ").split())
    known = set(corpus.train.tolist())
    assert len(set(corpus.valid.tolist()) - known) == 1  # the cow is the unknown word


def test_a_text_too_short_is_refused(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("a b c")
    with pytest.raises(UsageError, match="at least a hundred"):
        read_corpus(str(path))


def test_the_word_model_is_the_originals():
    model = WordReader(10_000, generator=mt.Generator(0))
    assert sum(p.size for p in model.parameters()) == 1_525_100
    limit = np.sqrt(6 / (150 + 100))
    weights = [model.rnn.weight_ih_l0, model.rnn.weight_hh_l0]
    kernel = np.concatenate([w.detach().numpy().ravel() for w in weights])
    assert 0.99 * limit < np.abs(kernel).max() <= np.float32(limit)
    model.eval()
    words = np.zeros((3, 2), "int64")
    logits, _ = through_window(model, model.embed(words), mt.zeros((2, 100)))
    assert logits.shape == (3, 2, 10_000)


def test_one_mask_for_a_word_however_often_it_is_read():
    """True n-step reads each input up to n times; dropped is dropped in all of them."""
    model = WordReader(9, 4, 3, dropout=0.5, dtype="float64", generator=mt.Generator(0))
    model.dropout.generator = mt.Generator(5)
    embedded = model.embed(np.arange(6).reshape(6, 1))
    model.eval()
    state = mt.zeros((1, 3), dtype="float64")
    true, _ = through_n_steps(model, embedded, state, 3)
    cut, _ = through_window(model, embedded, state)
    np.testing.assert_allclose(true.detach().numpy(), cut.detach().numpy(), rtol=1e-12)


# -- the experiment

SMALL = "--trials 1 --symbols 4000 --batch 20 --learning-rates 0.01 --no-plots --check --json"


def test_quick_draws_its_figures_and_makes_no_claim(tasks_cli: Any) -> None:
    done = tasks_cli("run truncated_bptt --preset quick --symbols 4000 --check --json")
    assert done.code == 0, done.stderr
    rows = {row["name"]: row for row in done.json["rows"]}
    judged = [name for name, row in rows.items() if row["ok"] is not None]
    assert len(judged) == 4
    assert all(name.startswith(("n = ", "share of errors")) for name in judged)
    assert "windows of 40" in done.stderr
    assert "5.01" in done.stderr  # the original's table
    figures = sorted(path.name for path in done.out.rglob("*.png"))
    assert figures == ["by_n.png", "gradient_by_distance.png", "learning_curves.png", "reach.png"]


def test_a_corpus_runs_the_same_comparison(tasks_cli: Any, tmp_path: Any) -> None:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    done = tasks_cli(
        f"run truncated_bptt --corpus {path} --trials 1 --batch 4 --units 8 --steps 2 5 "
        "--learning-rates 0.01 --epochs 2 --updates original --check --json"
    )
    rows = {row["name"]: row for row in done.json["rows"]}
    learnt = [row for name, row in rows.items() if name.startswith("validation cross-entropy")]
    assert len(learnt) == 5
    assert all(row["target"] is None and row["value"] < np.log(12) for row in learnt)


def test_a_learning_rate_of_zero_fails(tasks_cli: Any) -> None:
    done = tasks_cli(f"run truncated_bptt {SMALL} --learning-rates 0")
    assert done.code == 1
    ok = {row["name"]: row["ok"] for row in done.json["rows"]}
    assert not any(ok[name] for name in ok if name.startswith("validation cross-entropy"))


def test_errors_that_go_one_step_less_fail(tasks_cli: Any, monkeypatch: Any) -> None:
    real = through_n_steps

    def short(model, embedded, state, n, past=0):
        return real(model, embedded, state, n - 1, past)

    monkeypatch.setattr(truncated_bptt, "through_n_steps", short)
    done = tasks_cli(f"run truncated_bptt {SMALL} --preset quick --steps 4 9")
    assert done.code == 1
    missed = [row["name"] for row in done.json["rows"] if row["ok"] is False]
    assert any(name.startswith("share of errors") and "true" in name for name in missed)
    assert any(name.startswith("n = 12") for name in missed)


def test_windows_that_are_not_cut_fail(tasks_cli: Any, monkeypatch: Any) -> None:
    def uncut(model, embedded, state):
        states, last = model.rnn(embedded, mt.expand_dims(state, 0))
        return model.logits(states), last[0]

    monkeypatch.setattr(truncated_bptt, "through_window", uncut)
    done = tasks_cli(f"run truncated_bptt {SMALL} --preset quick --symbols 4000")
    assert done.code == 1
    missed = [row["name"] for row in done.json["rows"] if row["ok"] is False]
    assert any("windows: largest error" in name for name in missed)


@pytest.mark.parametrize(
    "slip",
    [
        "--units 0",
        "--steps 10 5",
        "--steps 0 5",
        "--learning-rates 0.01 0.03",
        "--learning-rates -1",
        "--symbols 100",
        "--corpus nowhere.txt",
    ],
)
def test_settings_that_make_no_sense_are_refused(tasks_cli: Any, slip: str) -> None:
    assert tasks_cli(f"run truncated_bptt {slip}").code == 2


@pytest.mark.parametrize("variant", ["exact", "true5_lr0.01", "windows5_lr0.01"])
def test_it_trains_alike_on_every_backend(device, variant):  # noqa: F811
    settings_ = TruncationSettings(symbols=2000, batch=20, steps=(5,), units=4)
    [host] = train(Work(settings_, variant))
    with device():
        [there] = train(Work(settings_, variant, backend=device.name))
    assert there.values == pytest.approx(dict(host.values), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("variant", ["true5_lr0.01", "windows5_lr0.01"])
def test_an_interruption_changes_no_bit(tmp_path, variant):
    settings_ = TruncationSettings(symbols=2000, batch=20, steps=(5,), units=4, epochs=2)
    work = Work(settings_, variant)
    [whole] = train(work)
    left = iter(range(1, 10**9))
    path = tmp_path / "unit.safetensors"
    hooks = Hooks(stop=lambda: next(left) == 27)  # in the second epoch, a state on its way
    with pytest.raises(Interrupted):
        train(Work(settings_, variant, checkpoint=path, hooks=hooks))
    again = Work(settings_, variant, checkpoint=path, resume=True)
    [resumed] = train(again)
    assert resumed.values == whole.values
    assert again.metrics == work.metrics
    for name, value in whole.model.items():
        np.testing.assert_array_equal(resumed.model[name].numpy(), value.numpy())


def test_streams_are_time_first():
    streams = echo_streams(mt.Generator(0), 60, 4)
    assert isinstance(streams, Streams)
    assert streams.x.shape == streams.y.shape == (15, 4)
