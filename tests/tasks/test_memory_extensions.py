"""Document 003's extensions: data and floors, the network read another way, faults that show."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from models.memory import KerasAdam, MemoryLSTM
from models.memory_extensions import (
    SequenceLSTM,
    read_numbers,
    softmax_cross_entropy,
    summed_cross_entropy,
)
from tasks import memory, memory_extensions
from tasks.memory_extensions import (
    CUE,
    EXTENSIONS,
    ExtensionsSettings,
    cases,
    floor,
    recall_sequences,
    unseen_sequences,
    windows,
)
from tasks.work import Work


def generators(trials, seed=0):
    return [mt.Generator((seed, trial)) for trial in range(trials)]


def settings(**changed):
    small = {"trials": 3, "epochs": 4, "epochs_longer": 6, "units": (5,), "units_long": 6}
    small |= {"alphabets": (5,), "epochs_alphabet": 6, "lengths": (12,), "updates_long": (3,)}
    small |= {"sequences": (3, 3, 3), "epochs_previous": 6}
    return ExtensionsSettings(**(small | changed))


# -- the data and the floors


def test_the_documents_sequences():
    np.testing.assert_array_equal(recall_sequences(5).T, memory.SEQUENCES)


@given(st.integers(3, 40))
def test_the_floor_is_that_of_counting(length):
    sequences = recall_sequences(length).T.tolist()
    assert memory.memoryless_floor(sequences, length) == pytest.approx(floor(length), rel=1e-12)
    assert floor(length, 1) * length == pytest.approx(CUE)


@given(st.integers(3, 30), st.integers(0, 2**32 - 1))
def test_no_answer_without_memory_costs_less_than_the_cue(length, seed):
    logits = mt.Generator(seed).normal((length,), "float64") * 5
    costs = [summed_cross_entropy(mt.tensor(logits), np.array(s)).item() for s in range(length)]
    assert (costs[length - 2] + costs[length - 1]) / 2 >= CUE - 1e-12


def test_unseen_sequences_are_unseen_and_alike():
    seen, unseen = recall_sequences(5).T.tolist(), unseen_sequences(5).T.tolist()
    assert len({tuple(sequence) for sequence in unseen}) == 10
    assert all(sequence not in seen for sequence in unseen)
    assert all(s[0] == s[-1] in (3, 4) and sorted(s[1:-1]) == [0, 1, 2] for s in unseen)


@pytest.mark.parametrize(
    ("steps", "lag", "first", "answers"),
    [
        (1, 0, [0], range(25)),
        (1, 1, [1], range(24)),
        (5, 1, [1, 2, 3, 4, 5], range(4, 24)),
    ],
)
def test_the_windows_of_the_three_echoes(steps, lag, first, answers):
    x, y = windows(np.arange(25)[None], steps, lag)
    np.testing.assert_array_equal(x[0, 0], first)
    np.testing.assert_array_equal(y[0], answers)
    np.testing.assert_array_equal(x[0, :, -1] - lag, y[0])


# -- the network


def test_a_look_up_is_the_product_with_one_hot_rows():
    model = SequenceLSTM(generators(2), 5, 7)
    plain = MemoryLSTM(generators(2), 5, 7)
    numbers = recall_sequences(5)[:-1]
    logits, state = model(numbers)
    expected, own = [], plain.initial_state(2)
    for row in numbers:
        output, own = plain.step(mt.tensor(np.eye(5, dtype="float32")[row]), own)
        expected.append(output.detach().numpy())
    np.testing.assert_allclose(logits.detach().numpy(), np.stack(expected, 1), atol=1e-6)
    for found, wanted in zip(state, own, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), wanted.detach().numpy(), atol=1e-6)
    last, _ = model(numbers, last=True)
    np.testing.assert_array_equal(last.detach().numpy(), logits.detach().numpy()[:, -1:])


def test_the_network_in_numpy():
    model = SequenceLSTM(generators(1), 4, 3, forget_bias=2.0)
    w, u, b, v, d = (p.detach().numpy()[0].astype("float64") for p in model.parameters())
    gate = lambda a: np.clip(0.2 * a + 0.5, 0, 1)  # noqa: E731
    h = c = np.zeros(3)
    for symbol in (3, 0, 1):
        i, f, g, o = np.split(w[symbol] + b[0] + h @ u, 4)
        c = gate(f) * c + gate(i) * np.tanh(g)
        h = gate(o) * np.tanh(c)
    logits, _ = model(np.array([[3], [0], [1]]), last=True)
    np.testing.assert_allclose(logits.detach().numpy()[0, 0, 0], h @ v + d[0], atol=1e-6)
    np.testing.assert_array_equal(b[0, 3:6], 2.0)


def test_trials_read_their_own_sequences():
    model, single = SequenceLSTM(generators(3), 9, 4), SequenceLSTM(generators(3)[1:2], 9, 4)
    numbers = mt.Generator(5).integers(0, 9, (3, 6, 2))
    both, alone = model(numbers)[0], single(numbers[1:2])[0]
    np.testing.assert_allclose(both.detach().numpy()[1], alone.detach().numpy()[0], atol=1e-6)


@pytest.mark.parametrize("numbers", [[[5]], [[-1]], [[[0]], [[1]], [[2]]]])
def test_what_cannot_be_read_is_refused(numbers):
    with pytest.raises(ValueError, match=r"symbols must be in|trials read sequences"):
        SequenceLSTM(generators(2), 5, 3)(np.array(numbers))


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6), st.integers(0, 5))
def test_the_losses_by_their_formulas(logits, place):
    values, right = np.array(logits), place % len(logits)
    softmax = np.exp(values) / np.exp(values).sum()
    found = softmax_cross_entropy(mt.tensor(values), np.array(right)).item()
    assert found == pytest.approx(-math.log(softmax[right]), abs=1e-5)
    p, y = 1 / (1 + np.exp(-values)), np.arange(len(logits)) == right
    expected = -np.log(np.where(y, p, 1 - p)).sum()
    assert summed_cross_entropy(mt.tensor(values), np.array(right)).item() == pytest.approx(
        expected, abs=1e-5
    )


def test_a_forget_bias_of_one_lets_no_gradient_through_a_hundred_steps():
    numbers = recall_sequences(100)[:-1]
    reach = {}
    for bias in (1.0, 3.0):
        model = SequenceLSTM(generators(1), 100, 8, forget_bias=bias)
        logits, _ = model(numbers, last=True)
        [gradient] = mt.grad(logits[..., 98].sum(), [model.kernel])
        reach[bias] = np.abs(gradient.numpy()[0, 98:]).max()  # the rows that only step 1 reads
    assert reach[1.0] < 1e-9
    assert reach[3.0] > 1e-4


def test_parameters_as_published():
    assert sum(p.size for p in SequenceLSTM(generators(1), 100, 15).parameters()) == 6960 + 1600
    assert sum(p.size for p in SequenceLSTM(generators(1), 100, 50).parameters()) == 30200 + 5100
    assert sum(p.size for p in MemoryLSTM(generators(1), 1, 10).parameters()) == 480 + 11


# -- training


def test_the_published_cut_is_the_training_of_the_memory_task():
    case = cases(ExtensionsSettings())["alphabet_5_cut"]
    model, plain = SequenceLSTM(generators(2)), MemoryLSTM(generators(2))
    ours, theirs = (KerasAdam(m.parameters(), lr=0.01) for m in (model, plain))
    for column, sequence in enumerate(memory.SEQUENCES):
        numbers = recall_sequences(5)[:, column : column + 1]
        memory_extensions.update(model, ours, numbers, case)
        x, y = map(mt.tensor, memory.pairs(sequence))
        memory.run_sequence(plain, theirs, x, y, 1)
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), atol=2e-5)
    sequences = recall_sequences(5)
    found = memory_extensions.evaluate(model, sequences, last=False)["loss"]
    np.testing.assert_allclose(found, memory.evaluate(model)[0], rtol=1e-4)


@pytest.mark.parametrize(
    "variant", ["tune_5_cut", "long_12_bias_3", "echo_b", "previous_3", "shuffle_through_shuffled"]
)
def test_stacking_trials_changes_no_bit(variant):
    together = memory_extensions.train(Work(settings(), variant, (0, 1, 2), seed=3))
    [alone] = memory_extensions.train(Work(settings(), variant, (1,), seed=3))
    assert alone.values == together[1].values
    for name, value in alone.model.items():
        np.testing.assert_array_equal(value.numpy(), together[1].model[name].numpy())


def test_shuffling_gives_each_trial_its_own_order_of_both_sequences():
    case = cases(ExtensionsSettings())["shuffle_cut_shuffled"]
    work, both, firsts = Work(settings(), case.name, (0, 1, 2)), recall_sequences(5), set()
    for epoch in range(12):
        first, second = memory_extensions._epoch(work, case, both, epoch)
        firsts.add(tuple(first[:, 0, 0]))
        np.testing.assert_array_equal(
            np.sort([first[:, 0, 0], second[:, 0, 0]], axis=0).T, 3 * [[3, 4]]
        )
    assert len(firsts) > 2


def test_echo_b_never_meets_the_state_of_the_number_before():
    """In batches of six a row's state is that of six numbers back."""
    case = cases(ExtensionsSettings())["echo_b"]
    model = SequenceLSTM(generators(1), 100, 50)
    sequence = mt.Generator(1).integers(0, 100, (25,))

    def answer_to_the_tenth(numbers):
        state = None
        for start in (0, case.batch):
            x = windows(numbers[None], case.steps, case.lag)[0][:, start : start + case.batch]
            logits, state = model(np.swapaxes(x, 1, 2), state, last=True)
        return logits.detach().numpy()[0, 0, 3]

    def changed(place):
        other = sequence.copy()
        other[place] = (other[place] + 50) % 100
        return answer_to_the_tenth(other)

    said = answer_to_the_tenth(sequence)
    np.testing.assert_array_equal(changed(9), said)  # the number it should say
    assert np.abs(changed(4) - said).max() > 0


@pytest.mark.parametrize("batch", [9, 3, 1])
def test_copied_weights_answer_alike_from_like_states(batch):
    model = MemoryLSTM(generators(2), 1, 10)
    ours = memory_extensions.predict(model, batch)
    np.testing.assert_allclose(memory_extensions.predict_with_copies(model, batch), ours, atol=1e-6)
    output, _ = read_numbers(model, memory_extensions.NUMBERS[1:2])
    np.testing.assert_allclose(output.detach().numpy()[:, 0], ours[:, 0], atol=1e-6)


# -- the experiment


def run(tasks_cli, words):
    done = tasks_cli(f"run memory_extensions --check --json --no-plots {words}")
    return done, {row["name"]: row for row in done.json["rows"]}


FIVE = "--extensions alphabet --alphabets 5 --epochs 3 --trials 3"
OPEN = "alphabet: 5 symbols, gradient through the sequence, forget bias 3, "


def test_memory_needs_the_gradient(tasks_cli):
    done, rows = run(tasks_cli, f"{FIVE} --epochs-alphabet 300")
    assert done.code == 0, rows
    assert rows[OPEN + "300 epochs: all right, loss under the floor"]["solved"] == 3
    assert rows[OPEN + "300 epochs: loss"]["value"] < floor(5)
    assert "Predicted: [0, 1, 2, 4]" in done.stderr


def test_a_learning_rate_of_zero_fails(tasks_cli):
    done, rows = run(tasks_cli, f"{FIVE} --epochs-alphabet 3 --learning-rate-long 0")
    assert done.code == 1
    assert rows[OPEN + "3 epochs: all right, loss under the floor"]["ok"] is False


def test_a_state_that_is_not_carried_fails(tasks_cli, monkeypatch):
    forward = SequenceLSTM.forward

    def forgetful(self, numbers, state=None, *, last=False):
        steps = [forward(self, numbers[..., t : t + 1, :]) for t in range(numbers.shape[-2])]
        return mt.concatenate([logits for logits, _ in steps], axis=1), steps[-1][1]

    monkeypatch.setattr(SequenceLSTM, "forward", forgetful)
    done, rows = run(tasks_cli, f"{FIVE} --epochs-alphabet 150")
    assert done.code == 1
    assert rows[OPEN + "150 epochs: loss"]["value"] > floor(5)


def test_an_echo_of_the_wrong_number_fails(tasks_cli, monkeypatch):
    right = memory_extensions.windows

    def shifted(sequences, steps, lag):
        return right(sequences, steps, lag + 1 if steps > 1 else lag)

    words = "--extensions random --sequences 3 3 3 --trials 2"
    _, rows = run(tasks_cli, words)
    assert rows["random: echo b, 3 sequences: accuracy on 20 held-out sequences"]["ok"] is True
    assert rows["random: echo a, 3 sequences: accuracy on 20 held-out sequences"]["ok"] is False
    monkeypatch.setattr(memory_extensions, "windows", shifted)
    assert run(tasks_cli, words)[0].code == 1


def test_weights_that_are_not_copied_fail(tasks_cli, monkeypatch):
    monkeypatch.setattr(MemoryLSTM, "load_state_dict", lambda self, state: None)
    done, rows = run(tasks_cli, "--preset quick --extensions batch")
    assert done.code == 1
    [row] = [row for name, row in rows.items() if "batches of 9" in name and "copied" in name]
    assert row["value"] > 1e-3


def test_quick_draws_its_figures_and_makes_no_claim(tasks_cli):
    done = tasks_cli("run memory_extensions --preset quick --check --json")
    assert done.code == 0
    assert [row["ok"] for row in done.json["rows"]].count(None) > 30
    for extension in EXTENSIONS:
        png = done.out / "memory_extensions-quick" / f"{extension}.png"
        assert png.stat().st_size > 10_000


def test_only_what_was_asked_for_is_trained(tasks_cli):
    done, rows = run(tasks_cli, "--preset quick --extensions shuffle")
    assert done.code == 0
    assert {name.split(":")[0] for name in rows} == {"shuffle"}


def test_a_diverged_run_says_so(tasks_cli):
    words = "--preset quick --learning-rate 1e39 --extensions alphabet random batch --json"
    done = tasks_cli(f"run memory_extensions {words}")
    assert done.code == 0
    assert "Warning" not in done.stderr
    assert any(row["note"].startswith("Diverged") for row in done.json["rows"])


@pytest.mark.parametrize(
    "slip",
    ["--alphabets 2", "--updates-long 3 4", "--units 0", "--extensions memory", "--extensions"],
)
def test_settings_that_make_no_sense_are_refused(tasks_cli, slip):
    assert tasks_cli(f"run memory_extensions --preset quick {slip}").code == 2
