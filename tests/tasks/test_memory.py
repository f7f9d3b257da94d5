"""Document 003's demonstration of memory: data, floor, Keras' habits, and faults that must show."""

import json
import math

import numpy as np
import pytest
from backends import device  # noqa: F401 - a fixture
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from models.memory import KerasAdam, MemorylessMLP, MemoryLSTM, hard_sigmoid, keras_lstm, orthogonal
from tasks import memory
from tasks.cli import main
from tasks.harness import Trial
from tasks.memory import FLOOR, SEQUENCES, encode, memoryless_floor, pairs
from tasks.work import Hooks, Interrupted, Work

sequences = st.lists(st.lists(st.integers(0, 4), min_size=2, max_size=7), min_size=1, max_size=4)
SMALL = ["--trials", "6", "--epochs", "250", "--epochs-bptt", "700"]
REMEMBERS = "gradient through 4 steps, 700 epochs: all right, loss under the floor"


def check(tmp_path, capsys, *options):
    code = main(
        [
            "run",
            "memory",
            "--check",
            "--json",
            "--jobs",
            "1",
            "--no-plots",
            "--out",
            str(tmp_path),
            *SMALL,
            *options,
        ]
    )
    captured = capsys.readouterr()
    rows = json.loads(captured.out.splitlines()[-1])["rows"]
    return code, {row["name"]: row for row in rows}, captured.err


def networks(trials, kind=MemoryLSTM, seed=0):
    return kind([mt.Generator((seed, trial)) for trial in range(trials)])


# -- the data and the floor


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9))
def test_one_hot_rows_read_back(sequence):
    encoded = encode(sequence)
    assert encoded.dtype == np.float32
    assert encoded.shape == (len(sequence), 5)
    np.testing.assert_array_equal(encoded.sum(axis=1), 1)
    np.testing.assert_array_equal(encoded.argmax(axis=1), sequence)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=9))
def test_each_target_is_the_next_input(sequence):
    x, y = pairs(sequence)
    np.testing.assert_array_equal(x[1:], y[:-1])
    assert len(x) == len(y) == len(sequence) - 1


@pytest.mark.parametrize("sequence", [[0, 5], [-1, 2]])
def test_symbols_out_of_the_alphabet_are_refused(sequence):
    with pytest.raises(ValueError, match="symbols must be in"):
        encode(sequence)


def test_the_documents_floor():
    assert pytest.approx(2 * math.log(2) / 5 / 4, abs=1e-15) == FLOOR
    assert pytest.approx(0.0693, abs=5e-5) == FLOOR


@given(sequences, st.integers(0, 2**32 - 1))
def test_no_memoryless_predictor_is_under_the_floor(drawn, seed):
    # Any table of five outputs for each of five symbols is such a predictor.
    table = mt.Generator(seed).uniform(0.001, 0.999, (5, 5), "float64")
    losses = []
    for sequence in drawn:
        x, y = pairs(sequence)
        p = x @ table
        losses.extend(-np.log(np.where(y == 1, p, 1 - p)).mean(axis=1))
    assert np.mean(losses) >= memoryless_floor(drawn) - 1e-6


@given(sequences)
def test_the_floor_is_reached_by_counting(drawn):
    counts, times = np.zeros((5, 5)), np.zeros((5, 1))
    for sequence in drawn:
        x, y = pairs(sequence)
        counts += x.T @ y
        times += x.sum(axis=0)[:, None]
    table = np.divide(counts, times, out=np.full((5, 5), 0.5), where=times > 0)
    losses = []
    for sequence in drawn:
        x, y = pairs(sequence)
        chance = np.where(y == 1, x @ table, 1 - x @ table)
        losses.extend(-np.log(chance).mean(axis=1))
    assert np.mean(losses) == pytest.approx(memoryless_floor(drawn), abs=1e-6)


# -- Keras' habits


@given(st.floats(-10, 10))
def test_hard_sigmoid(x):
    found = hard_sigmoid(mt.tensor(x, dtype="float64")).item()
    assert found == pytest.approx(min(1.0, max(0.0, 0.2 * x + 0.5)), abs=1e-15)


def test_orthogonal_rows_over_the_wide_kernel():
    kernel = orthogonal(mt.Generator(0), 20, 80).astype("float64")
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(20), atol=1e-6)
    block = kernel[:, :20]
    assert np.abs(block @ block.T - np.eye(20)).max() > 0.1


def test_first_weights():
    model = networks(3)
    assert np.abs(model.kernel.detach().numpy()).max() <= math.sqrt(6 / 85)
    bias = model.bias.detach().numpy()
    np.testing.assert_array_equal(bias[:, 0, 20:40], 1)
    assert bias.sum() == 3 * 20
    assert sum(p.size for p in model.parameters()) == 3 * 2185


def test_the_cell_against_its_formulas():
    i, f, g, o, c = np.random.default_rng(0).standard_normal((5, 7)) * 3
    gate = lambda a: np.clip(0.2 * a + 0.5, 0, 1)  # noqa: E731
    h_new, c_new = keras_lstm(*map(mt.tensor, (i, f, g, o, c)))
    expected = gate(f) * c + gate(i) * np.tanh(g)
    np.testing.assert_allclose(c_new.numpy(), expected, rtol=1e-14)
    np.testing.assert_allclose(h_new.numpy(), gate(o) * np.tanh(expected), rtol=1e-14)


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=6), st.floats(1e-4, 0.1))
def test_keras_adam_by_its_formula(gradients, lr):
    parameter = mt.nn.Parameter(mt.tensor(np.array([0.3, -0.7])))
    optimizer = KerasAdam([parameter], lr=lr)
    p, m, v = np.array([0.3, -0.7]), 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        g = np.array([g, 0.5 * g])
        parameter.grad = mt.tensor(g)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        rate = lr * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        p = p - rate * m / (np.sqrt(v) + 1e-8)
    np.testing.assert_allclose(parameter.detach().numpy(), p, rtol=1e-9, atol=1e-12)


# -- trials side by side


def train(variant, trials, **settings):
    settings = memory.MemorySettings(trials=40, **settings)
    return memory.train(Work(settings, variant, tuple(trials), seed=3))


@pytest.mark.parametrize("variant", ["published", "bptt", "mlp"])
def test_stacking_trials_changes_no_bit(variant):
    together = train(variant, (0, 1, 2, 3, 4), epochs=12, epochs_bptt=12)
    for trial in together[1:4:2]:
        [alone] = train(variant, (trial.number,), epochs=12, epochs_bptt=12)
        assert alone.values == trial.values
        for name, value in alone.model.items():
            np.testing.assert_array_equal(value.numpy(), trial.model[name].numpy())


def test_the_published_cut_lets_no_gradient_through_time():
    model = networks(1)
    x, y = (mt.tensor(part) for part in pairs(SEQUENCES[0]))
    gradients = {}
    for window in (1, 4):
        first = x[:1].detach().requires_grad_()
        state = model.initial_state()
        loss = 0.0
        for t in range(4):
            if t % window == 0:
                state = mt.detach(state)
            logits, state = model.step(first if t == 0 else x[t : t + 1], state)
            if t == 3:
                loss = memory.cross_entropy(logits, y[t : t + 1]).sum()
        [gradients[window]] = mt.grad(loss, [first], allow_unused=True)
    assert gradients[1] is None
    assert np.abs(gradients[4].numpy()).max() > 0


def test_a_perceptron_says_the_same_in_both_sequences():
    *_, outputs = memory.evaluate(networks(3, MemorylessMLP))
    np.testing.assert_array_equal(outputs[:, 0, 1:], outputs[:, 1, 1:])


# -- the experiment


def test_memory_needs_a_gradient_through_time(tmp_path, capsys):
    code, rows, said = check(tmp_path, capsys)
    assert code == 0, [row for row in rows.values() if row["ok"] is False]
    assert rows[REMEMBERS]["ok"]
    assert rows["as published, 250 epochs: all right with a loss under the floor"]["solved"] == 0
    assert rows["as published, 250 epochs: loss"]["value"] > FLOOR
    assert said.count("yhat=") == 3 * 8
    assert "[0.0, 0.0, 0.0, 1.0, 0.0] [1.0, 0.0, 0.0, 0.0, 0.0]" in said
    assert "it remembers" in said
    assert rows[REMEMBERS]["source"] == "computed"


def test_a_longer_training_is_not_judged_by_the_published_figures(tmp_path, capsys):
    _, rows, _ = check(tmp_path, capsys, "--epochs", "20", "--epochs-bptt", "20")
    judged = [name for name, row in rows.items() if name.startswith("as published") and row["ok"]]
    assert judged == []
    assert rows["as published, 20 epochs: all eight predictions right"]["target"] is None


@pytest.mark.parametrize(
    ("right", "loss", "told"),
    [
        (8, 0.01, "8 of 8 right, loss 0.0100 under the floor 0.0693: it remembers."),
        (7, 0.08, "7 of 8 right, loss 0.0800 not under the floor 0.0693."),
        (2, math.nan, "2 of 8 right, loss nan not under the floor 0.0693."),
    ],
)
def test_the_conclusion_of_a_trial(right, loss, told):
    values = {"right": right, "loss": loss, "remembers": right == 8 and loss < FLOOR}
    assert memory._conclusion(Trial(0, values=values)) == told


def test_eight_right_above_the_floor_is_luck():
    values = {"right": 8, "loss": 0.08, "remembers": False}
    told = memory._conclusion(Trial(0, values=values))
    assert "not under the floor" in told
    assert "the coin fell right" in told


def test_updates_an_epoch():
    for window, updates in ((1, 8), (2, 4), (3, 4), (4, 2)):
        settings = memory.MemorySettings(window=window)
        assert memory.updates_an_epoch("bptt", settings) == updates
        assert memory.updates_an_epoch("published", settings) == 8
        assert memory.updates_an_epoch("mlp", settings) == 8


def test_a_diverged_run_says_so_and_nothing_else(tmp_path, capsys):
    # NumPy's and matplotlib's warnings are errors in the tests.
    words = [
        "--preset",
        "quick",
        "--epochs",
        "5",
        "--epochs-bptt",
        "5",
        "--learning-rate",
        "1e39",
        "--jobs",
        "1",
        "--json",
    ]
    assert main(["run", "memory", *words, "--out", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    rows = {row["name"]: row for row in json.loads(captured.out.splitlines()[-1])["rows"]}
    assert rows["as published, 5 epochs: loss"]["note"].startswith("Diverged")
    assert rows["as published, 5 epochs: loss"]["value"] is None
    assert "it remembers" not in captured.err
    assert len(list(tmp_path.rglob("*.png"))) == 2


def test_a_learning_rate_of_zero_fails(tmp_path, capsys):
    code, rows, said = check(
        tmp_path, capsys, "--learning-rate", "0", "--epochs", "2", "--epochs-bptt", "2"
    )
    assert code == 1
    assert (
        rows["gradient through 4 steps, 2 epochs: all right, loss under the floor"]["ok"] is False
    )
    assert "it remembers" not in said


def test_one_step_of_back_propagation_fails(tmp_path, capsys):
    code, rows, _ = check(tmp_path, capsys, "--window", "1", "--epochs-bptt", "250")
    assert code == 1
    assert (
        rows["gradient through 1 step, 250 epochs: all right, loss under the floor"]["ok"] is False
    )


def test_a_state_that_is_not_carried_fails(tmp_path, capsys, monkeypatch):
    step = MemoryLSTM.step

    def forgetful(self, x, state):
        return step(self, x, self.initial_state())

    monkeypatch.setattr(MemoryLSTM, "step", forgetful)
    code, rows, said = check(tmp_path, capsys, "--epochs-bptt", "250")
    assert code == 1
    assert rows["gradient through 4 steps, 250 epochs: loss"]["value"] > FLOOR
    assert "it remembers" not in said


def test_quick_draws_its_figures_and_makes_no_claim(tmp_path, capsys):
    code = main(
        [
            "run",
            "memory",
            "--preset",
            "quick",
            "--check",
            "--json",
            "--jobs",
            "1",
            "--epochs",
            "5",
            "--epochs-bptt",
            "10",
            "--out",
            str(tmp_path),
        ]
    )
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert code == 0
    assert [row["ok"] for row in rows].count(None) >= 8
    for figure in ("loss", "last_symbol"):
        assert (tmp_path / "memory-quick" / f"{figure}.png").stat().st_size > 10_000


@pytest.mark.parametrize("slip", [["--window", "5"], ["--window", "0"], ["--epochs", "0"]])
def test_settings_that_make_no_sense_are_refused(slip, tmp_path):
    assert main(["run", "memory", *slip, "--out", str(tmp_path)]) == 2


@pytest.mark.parametrize("variant", memory.VARIANTS)
def test_it_trains_alike_on_every_backend(device, variant):  # noqa: F811
    settings = memory.MemorySettings(epochs=3, epochs_bptt=3)
    [host] = memory.train(Work(settings, variant))
    with device():
        [there] = memory.train(Work(settings, variant, backend=device.name))
    assert there.values == pytest.approx(dict(host.values), rel=1e-5)


def interrupted_and_resumed(train, settings, variant, steps, path):
    """Train, stop after so many steps, and go on from the file in a new unit of work."""
    left = iter(range(1, 10**9))
    hooks = Hooks(stop=lambda: next(left) == steps)
    with pytest.raises(Interrupted):
        train(Work(settings, variant, checkpoint=path, hooks=hooks))
    work = Work(settings, variant, checkpoint=path, resume=True)
    return train(work), work.metrics


@pytest.mark.parametrize("steps", [3, 9])  # before and after the count in the middle is taken
def test_an_interruption_changes_no_bit(tmp_path, steps):
    settings = memory.MemorySettings(epochs=5, epochs_bptt=14)
    work = Work(settings, "bptt")
    [whole] = memory.train(work)
    [again], metrics = interrupted_and_resumed(
        memory.train, settings, "bptt", steps, tmp_path / "unit.safetensors"
    )
    assert again.values == whole.values
    assert metrics == work.metrics
    for name, value in whole.model.items():
        np.testing.assert_array_equal(again.model[name].numpy(), value.numpy())
