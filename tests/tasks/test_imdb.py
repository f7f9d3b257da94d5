"""imdb: the file is read without trusting it, as Keras arranges it; the networks are Keras'."""

from __future__ import annotations

import copyreg
import dataclasses
import io
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import microtensor as mt
from models.imdb import ReviewReader
from tasks import datasets, imdb, reviews
from tasks.harness import Run, Trial, UsageError
from tasks.imdb import TASK, ImdbSettings, arrays, parameters, synthetic, train
from tasks.reviews import IMDB, Reviews, load_data, orders, read
from tasks.work import Hooks, Interrupted, Work

QUICK = TASK.presets["quick"]


def npz(parts: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, part in parts.items():
            archive.writestr(f"{name}.npy", part)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def objects(lists: list[Any]) -> np.ndarray:
    array = np.empty(len(lists), object)
    array[:] = lists
    return array


def file_of(x: list[Any], y: list[int], test: list[Any], y_test: list[int]) -> bytes:
    parts = {"x_train": npy(objects(x)), "y_train": npy(np.array(y, np.int64))}
    parts |= {"x_test": npy(objects(test)), "y_test": npy(np.array(y_test, np.int64))}
    return npz(parts)


def with_pickle(payload: bytes, count: int = 2) -> bytes:
    """A file whose training reviews are this pickle, under an honest header."""
    head = npy(objects([[1]] * count))
    head = head[: head.index(b"\n") + 1]
    good = npy(objects([[1], [2]]))
    label = npy(np.zeros(2, np.int64))
    return npz({"x_train": head + payload, "y_train": label, "x_test": good, "y_test": label})


words = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@st.composite
def labelled(draw: Any) -> tuple[list[list[int]], list[int]]:
    x = draw(st.lists(words, min_size=1, max_size=8))
    y = draw(st.lists(st.integers(0, 1), min_size=len(x), max_size=len(x)))
    return x, y


# -- a file that is not to be trusted ----------------------------------------------------------


class Runs:
    """Pickled, it calls a function when it is loaded."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def reviews_of(pieces: Reviews) -> list[list[int]]:
    return [pieces[i].tolist() for i in range(len(pieces))]


def array_pickle(items: Any, count: int = 2) -> bytes:
    """An object array of `count` reviews, the first of them `items`, as Keras' file has it.

    That was written by Python 2, whose strings are bytes; Python 3 has no words for them.
    """
    lists = pickle.dumps([items, *[[1]] * (count - 1)], protocol=2)[2:-1]
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K" + bytes([count]) + b"\x85cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R(K\x03U\x01|NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89" + lists + b"tb."
    )


TRAP = "trap-that-was-sprung"


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Runs(os.system, f"touch {TRAP}"),
        lambda: Runs(eval, f"open({TRAP!r}, 'w').close()"),
        lambda: Runs(exec, f"open({TRAP!r}, 'w').close()"),
        lambda: Runs(open, TRAP, "w"),
        lambda: Runs(getattr, 1, "real"),
        lambda: Runs(np.fromfile, TRAP),
        lambda: Runs(np.array, [1]),
        lambda: Runs(pickle.loads, b"N."),
        lambda: Runs(__import__, "os"),
        lambda: print,
        lambda: np.ndarray((1,)),
        lambda: Path("x"),
    ],
    ids=[
        "system", "eval", "exec", "open", "getattr", "fromfile", "array", "loads", "import",
        "function", "array of floats", "object",
    ],
)  # fmt: skip
def test_a_malicious_pickle_is_refused(
    make: Callable[[], Any], protocol: int, tmp_path: Path, monkeypatch: Any
) -> None:
    """As the whole pickle, as a review, and as a word: and nothing of it is ever called."""
    monkeypatch.chdir(tmp_path)
    for payload in (
        pickle.dumps(make(), protocol),
        pickle.dumps(objects([[make()], [1]]), protocol),
        array_pickle(make()),
        array_pickle([1, make()]),
    ):
        content = with_pickle(payload)
        with pytest.raises(UsageError, match=r"imdb\.npz (is refused|cannot be read)"):
            read(content)
        assert os.listdir(tmp_path) == []
    # and the trap is a trap: Python's own unpickler steps into it
    if isinstance(make(), Runs) and make().call[0] in (os.system, eval, exec):
        pickle.loads(pickle.dumps(make(), protocol))
        assert os.listdir(tmp_path) == [TRAP]


def test_a_malicious_file_whose_hash_matches_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    """The hash protects from another file; this is the defence behind it."""
    monkeypatch.chdir(tmp_path)
    content = with_pickle(array_pickle(Runs(os.system, f"touch {TRAP}")))
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "imdb.npz").write_bytes(content)
    file = dataclasses.replace(IMDB.files[0], digest=datasets.digest(content), size=len(content))
    found = datasets.resolve(dataclasses.replace(IMDB, files=(file,)), str(folder))
    work = Work(ImdbSettings(), variant="rnn", data=(found,))
    with pytest.raises(UsageError, match=r"asks for (posix|nt)\.system, and reviews need no such"):
        train(work)
    assert not (tmp_path / TRAP).exists()


def test_other_doors_are_closed(monkeypatch: Any) -> None:
    monkeypatch.setitem(copyreg._extension_registry, ("os", "system"), 7)
    monkeypatch.setitem(copyreg._inverted_registry, 7, ("os", "system"))
    for payload in (
        b"\x80\x02\x82\x07.",  # EXT1: a name by its number in copyreg
        b"\x80\x02U\x01xQ.",  # BINPERSID
        b"Px\n.",  # PERSID
        b"(ios\nsystem\n.",  # INST
        b"\x80\x02cnumpy\nndarray\n)R.",  # a name that is admitted, called
        b"\x80\x02cnumpy\nndarray\n)\x81.",
        b"\x80\x02cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85U\x01b\x87R.",
        b"\x80\x02]K\x01a.",  # a list, and no array
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n.",
        b"",
        b"\x80\x02",
        b"\xff\xff",
    ):
        with pytest.raises(UsageError, match=r"imdb\.npz"):
            read(with_pickle(payload))


@pytest.mark.parametrize(
    "items",
    [1.5, "word", [1.5], [True], [[1]], ["a"], [0], [-1], [2**40], None, (1, 2), {1: 2}],
)
def test_only_lists_of_integers_are_reviews(items: Any) -> None:
    assert reviews_of(read(with_pickle(array_pickle([7, 300, 70000])))[0]) == [[7, 300, 70000], [1]]
    with pytest.raises(UsageError, match=r"imdb\.npz"):
        read(with_pickle(array_pickle(items)))


def test_labels_and_shapes_must_fit() -> None:
    good = ([[1], [2]], [0, 1])
    for y in ([0, 2], [0], [0, 1, 1]):
        with pytest.raises(UsageError, match=r"imdb\.npz"):
            read(file_of(good[0], y, *good))
    with pytest.raises(UsageError, match="2 reviews in an array of shape"):
        read(with_pickle(array_pickle([1]), count=3))
    with pytest.raises(UsageError, match="not one label a review"):
        read(with_pickle(array_pickle([1], count=3), count=3))
    for content in (b"", b"no zip", npz({"x_train": b"1"})):
        with pytest.raises(UsageError, match=r"imdb\.npz cannot be read"):
            read(content)


@given(train=labelled(), test=labelled())
def test_an_honest_file_is_read(train: Any, test: Any) -> None:
    for sets, (x, y) in zip(read(file_of(*train, *test)), (train, test), strict=True):
        assert reviews_of(sets) == x
        assert sets.labels.tolist() == y


# -- as Keras arranges it ----------------------------------------------------------------------


def keras_load_data(
    x: list[list[int]], y: list[int], t: list[list[int]], u: list[int], num_words: int, keras: str
) -> Any:
    """The two versions of `load_data`, written after the originals, list by list."""

    def marks(sequences: Any) -> list[list[int]]:
        moved = [[1] + [w + 3 for w in sequence] for sequence in sequences]
        return [[w if w < num_words else 2 for w in sequence] for sequence in moved]

    if keras == "2.0":  # np.random.seed(113); shuffle(x_train); seed(113); shuffle(y_train) …
        out = []
        for values, seed in ((objects(x), 113), (np.array(y), 113), (objects(t), 226), (u, 226)):
            values = np.array(values) if isinstance(values, list) else values
            np.random.RandomState(seed).shuffle(values)
            out.append(values)
        return marks(out[0]), out[1].tolist(), marks(out[2]), out[3].tolist()
    stream = np.random.RandomState(113)
    i, j = np.arange(len(x)), np.arange(len(t))
    stream.shuffle(i)
    stream.shuffle(j)
    return marks([x[k] for k in i]), [y[k] for k in i], marks([t[k] for k in j]), [u[k] for k in j]


@given(
    train=labelled(),
    test=labelled(),
    num_words=st.integers(4, 45),
    keras=st.sampled_from(["2.0", "tf2"]),
)
def test_load_data_is_keras(train: Any, test: Any, num_words: int, keras: Any) -> None:
    ours = load_data(file_of(*train, *test), num_words, keras)
    x, y, t, u = keras_load_data(*train, *test, num_words, keras)
    assert (reviews_of(ours[0]), ours[0].labels.tolist()) == (x, y)
    assert (reviews_of(ours[1]), ours[1].labels.tolist()) == (t, u)


def test_both_generations_hold_out_the_same_reviews() -> None:
    old, new = orders(25000, 25000, "2.0"), orders(25000, 25000, "tf2")
    np.testing.assert_array_equal(old[0], new[0])
    assert (old[1] != new[1]).mean() > 0.99
    for order in (*old, *new):
        np.testing.assert_array_equal(np.sort(order), np.arange(25000))


@given(pieces=st.lists(words, min_size=1, max_size=6), length=st.integers(1, 15), data=st.data())
def test_padding_is_in_front_and_so_is_what_is_cut(
    pieces: list[list[int]], length: int, data: Any
) -> None:
    own = Reviews.of([np.array(piece) for piece in pieces], np.zeros(len(pieces)))
    for reverse in (False, True):
        rows = own.padded(length, reverse=reverse)
        assert rows.dtype == np.int32
        for row, piece in zip(rows, pieces, strict=True):
            turned = piece[::-1] if reverse else piece
            expected = ([0] * length + turned)[-length:]
            assert row.tolist() == expected
    order = np.array(data.draw(st.permutations(range(len(pieces)))))
    assert reviews_of(own.take(order)) == [pieces[i] for i in order]


def test_the_last_fifth_is_held_out_and_the_test_set_is_apart() -> None:
    settings = dataclasses.replace(QUICK, count=23)
    sets = synthetic(settings, mt.Generator(3))
    parts = arrays(settings, "lstm", *sets)
    np.testing.assert_array_equal(parts["train"][0], sets[0].padded(settings.length)[:19])
    np.testing.assert_array_equal(parts["val"][0], sets[0].padded(settings.length)[19:])
    np.testing.assert_array_equal(parts["test"][1], sets[1].labels)
    for variant in ("reversed", "bidirectional"):
        turned = arrays(settings, variant, *sets)["train"][0]
        np.testing.assert_array_equal(turned, sets[0].padded(25, reverse=True)[:19])
    document = ImdbSettings()
    assert (document.validation, document.batches) == (5000, 157)


def test_stand_ins_carry_their_class_in_some_words() -> None:
    own, other = synthetic(QUICK, mt.Generator(1))
    assert not np.array_equal(own.tokens[:50], other.tokens[:50])
    for i in range(len(own)):
        telling = own[i][(own[i] >= 4) & (own[i] < 12)]
        assert ((telling >= 8) == own.labels[i]).all()
        assert own[i][0] == reviews.START
    assert 0.4 < own.labels.mean() < 0.6


# -- the networks ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "count"),
    [("rnn", 322113), ("lstm", 328353), ("reversed", 1300641), ("bidirectional", 336705)],
)
@pytest.mark.parametrize("keras", ["tf2", "2.0"])
def test_parameters_are_keras(variant: str, count: int, keras: Any) -> None:
    settings = ImdbSettings(keras=keras)
    assert parameters(settings, variant) == count
    model = imdb.network(settings, variant, mt.Generator(0))
    assert sum(math.prod(p.shape) for p in model.parameters()) == count


@pytest.mark.parametrize("cell", ["rnn", "lstm", "hard_lstm"])
def test_weights_start_as_keras_starts_them(cell: Any) -> None:
    model = ReviewReader(cell, 500, 24, 32, bidirectional=True, generator=mt.Generator(2))
    p = {name: value.numpy() for name, value in model.state_dict().items()}
    wide = 32 if cell == "rnn" else 128
    table = p["embedding.weight"]
    assert 0.0499 < np.abs(table).max() <= np.float32(0.05)
    assert table.std() == pytest.approx(0.05 / math.sqrt(3), rel=0.02)
    for end in ("", "_reverse"):
        limit = math.sqrt(6 / (24 + wide))
        kernel = p[f"recurrent.weight_ih_l0{end}"]
        assert kernel.shape == (wide, 24)
        assert 0.98 * limit < np.abs(kernel).max() <= np.float32(limit)
        assert kernel.std() == pytest.approx(limit / math.sqrt(3), rel=0.06)
        square = p[f"recurrent.weight_hh_l0{end}"]
        np.testing.assert_allclose(square.T @ square, np.eye(32), rtol=0, atol=1e-5)
        forget = [0.0] * 32 if cell == "rnn" else [0.0] * 32 + [1.0] * 32 + [0.0] * 64
        assert p[f"recurrent.bias_ih_l0{end}"].tolist() == forget
    assert np.abs(p["linear.weight"]).max() <= np.float32(math.sqrt(6 / 65))
    assert p["linear.bias"].tolist() == [0.0]
    assert not any("bias_hh" in name for name in p)


def hard(x: np.ndarray) -> np.ndarray:
    return np.clip(0.2 * x + 0.5, 0, 1)


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("cell", "gate"), [("rnn", None), ("lstm", logistic), ("hard_lstm", hard)])
def test_the_network_computes_its_equations(cell: Any, gate: Any, bidirectional: bool) -> None:
    """Against the equations written out in NumPy; padding is read like any word."""
    model = ReviewReader(
        cell, 20, 6, 5, bidirectional=bidirectional, generator=mt.Generator(4)
    ).astype("float64")
    p = {name: 3 * value.numpy() for name, value in model.state_dict().items()}
    model.load_state_dict({name: mt.tensor(value) for name, value in p.items()})
    ids = mt.Generator(5).integers(0, 20, (9, 3))
    ids[:4, 0] = 0
    features = []
    for end, order in (("", range(9)), ("_reverse", range(8, -1, -1)))[: 1 + bidirectional]:
        h, c = np.zeros((3, 5)), np.zeros((3, 5))
        for t in order:
            z = p["embedding.weight"][ids[t]] @ p[f"recurrent.weight_ih_l0{end}"].T
            z = z + h @ p[f"recurrent.weight_hh_l0{end}"].T + p[f"recurrent.bias_ih_l0{end}"]
            if gate is None:
                h = np.tanh(z)
            else:
                i, f, g, o = np.split(z, 4, axis=1)
                c = gate(f) * c + gate(i) * np.tanh(g)
                h = gate(o) * np.tanh(c)
        features.append(h)
    expected = np.concatenate(features, axis=1) @ p["linear.weight"][0] + p["linear.bias"][0]
    with mt.no_grad():
        ours = model(mt.tensor(ids)).numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


def test_evaluation_is_over_all_reviews_whatever_the_slices() -> None:
    model = imdb.network(QUICK, "lstm", mt.Generator(1))
    ids = mt.Generator(2).integers(0, 200, (701, 6)).astype(np.int32)
    labels = mt.Generator(3).integers(0, 2, (701,))
    logits = imdb.predict(model, ids)
    with mt.no_grad():
        np.testing.assert_allclose(logits, model(mt.tensor(ids.T)).numpy(), rtol=0, atol=1e-6)
    p = logistic(logits)
    entropy = -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    loss, accuracy = imdb.evaluate(model, ids, labels)
    assert loss == pytest.approx(entropy, rel=1e-9)
    assert accuracy == np.mean((p > 0.5) == labels)


# -- training ----------------------------------------------------------------------------------

TINY = dataclasses.replace(QUICK, count=60, epochs=2, length=6, hidden_size=3)


def test_an_epoch_s_figures_are_means_over_its_reviews(monkeypatch: Any) -> None:
    """48 reviews in 3 batches of 16, each met once an epoch, in another order the next time."""
    seen: list[np.ndarray] = []
    losses: list[float] = []
    real = mt.nn.functional.binary_cross_entropy_with_logits
    forward = ReviewReader.forward

    def spy(logits: Any, target: Any) -> Any:
        loss = real(logits, target)
        losses.append(loss.item())
        return loss

    def watch(self: Any, words: Any) -> Any:
        if mt.is_grad_enabled():
            seen.append(words.numpy().T.copy())
        return forward(self, words)

    monkeypatch.setattr(imdb.nn.functional, "binary_cross_entropy_with_logits", spy)
    monkeypatch.setattr(ReviewReader, "forward", watch)
    work = Work(TINY, variant="lstm")
    [trial] = train(work)
    assert [len(batch) for batch in seen] == [16] * 6
    sets = synthetic(TINY, work.generator("reviews"))
    x = arrays(TINY, "lstm", *sets)["train"][0]
    for epoch in (seen[:3], seen[3:]):
        np.testing.assert_array_equal(
            np.array(sorted(np.concatenate(epoch).tolist())), np.array(sorted(x.tolist()))
        )
    assert not np.array_equal(np.concatenate(seen[:3]), np.concatenate(seen[3:]))
    assert [m.step for m in work.metrics] == [1, 2]
    assert work.metrics[1].values["loss"] == pytest.approx(np.mean(losses[3:]), rel=1e-6)
    assert trial.values["last_val_accuracy"] == work.metrics[1].values["val_accuracy"]


def test_the_status_tells_loss_and_accuracy() -> None:
    said: list[str] = []
    train(Work(TINY, variant="rnn", hooks=Hooks(status=said.append)))
    assert len(said) == 6
    assert said[0].startswith("epoch 1, loss 0.")
    assert "val accuracy" in said[2]


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_an_interrupted_trial_goes_on_to_the_same_bits(tmp_path: Path, steps: int) -> None:
    [whole] = train(Work(TINY, variant="lstm"))
    left: Iterator[int] = iter(range(1, 100))
    hooks = Hooks(stop=lambda: next(left) == steps)
    with pytest.raises(Interrupted):
        train(Work(TINY, variant="lstm", checkpoint=tmp_path / "c.safetensors", hooks=hooks))
    again = Work(TINY, variant="lstm", checkpoint=tmp_path / "c.safetensors", resume=True)
    [parts] = train(again)
    assert parts.values == whole.values
    for name, value in whole.model.items():
        np.testing.assert_array_equal(value.numpy(), parts.model[name].numpy())


# -- the whole ---------------------------------------------------------------------------------


def test_quick_runs_without_a_file_and_says_what_it_is(tasks_cli: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(datasets, "resolve", None)
    done = tasks_cli("run imdb --preset quick --check --json --models rnn lstm")
    assert done.code == 0, done.stderr
    assert "synthetic stand-ins" in done.stderr
    assert [row["ok"] for row in done.json["rows"]] == [True, *[None] * 5] * 2
    folder = done.out / "imdb-quick"
    assert (folder / "accuracy.png").exists()
    assert (folder / "loss.png").exists()


def test_a_planted_fault_is_found(tasks_cli: Any, monkeypatch: Any) -> None:
    """PyTorch's second bias instead of Keras' one: the count is not the published one."""
    real = mt.nn.LSTM
    monkeypatch.setattr(mt.nn, "LSTM", lambda *words, bias, **more: real(*words, bias=True, **more))
    words = "run imdb --preset quick --models lstm --epochs 1 --count 40 --no-plots"
    assert tasks_cli(f"{words} --check").code == 1
    monkeypatch.undo()
    assert tasks_cli(f"{words} --check").code == 0


def finished(**figures: float) -> Run:
    """A run at the document's settings with these figures for every network."""
    settings = ImdbSettings(trials=1)
    trials = []
    for variant in settings.models:
        values = {
            "parameters": parameters(settings, variant),
            "best_val_accuracy": 0.865,
            "last_accuracy": 0.96,
            "last_val_accuracy": 0.86,
            "lowest_val_loss_epoch": 3,
            "test_accuracy": 0.85,
        }
        trials.append(Trial(0, values=values | figures, variant=variant))
    return Run(settings, "document", 0, "numpy", tuple(trials), ())


def test_verdicts_at_the_document_s_settings_can_be_missed() -> None:
    good = {row.name: row for row in imdb.rows(finished())}
    assert [row.ok for row in good.values()].count(True) == 9
    assert False not in [row.ok for row in good.values()]
    assert good["LSTM: highest validation accuracy of 10 epochs"].target == 0.8928
    assert good["LSTM: parameters"].source == "document"
    bad = [row.name for row in imdb.rows(finished(best_val_accuracy=0.79)) if row.ok is False]
    assert len(bad) == 4
    bad = [row.name for row in imdb.rows(finished(best_val_accuracy=0.88)) if row.ok is False]
    assert bad == ["SimpleRNN: highest validation accuracy of 10 epochs"]
    bad = [row.name for row in imdb.rows(finished(last_accuracy=0.94)) if row.ok is False]
    assert bad == ["LSTM: training accuracy, epoch 10"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 4}, "count must be from 5"),
        ({"words": 19}, "words must be at least 20"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"models": ()}, "models must name one or more, each once"),
        ({"models": ("rnn", "rnn")}, "models must name one or more, each once"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImdbSettings(**change)


# -- the real reviews --------------------------------------------------------------------------

FOLDER = os.environ.get(datasets.VARIABLE)
real_reviews = pytest.mark.skipif(
    not (FOLDER and (Path(FOLDER) / "imdb.npz").exists()),
    reason=f"{datasets.VARIABLE} names no folder with imdb.npz",
)


@real_reviews
def test_the_real_reviews_are_keras() -> None:
    """The first review, which everyone who ever called `load_data` has seen."""
    found = datasets.resolve(IMDB, None)
    train_set, test_set = load_data(datasets.content(found.path, found.file), 10000)
    assert (len(train_set), len(test_set)) == (25000, 25000)
    assert train_set[0][:12].tolist() == [1, 14, 22, 16, 43, 530, 973, 1622, 1385, 65, 458, 4468]
    assert train_set.labels[:5].tolist() == [1, 0, 0, 1, 0]
    assert (train_set.labels.mean(), test_set.labels.mean()) == (0.5, 0.5)
    assert train_set.tokens.max() == 9999
    found = datasets.resolve(reviews.WORD_INDEX, None)
    names = reviews.word_index(datasets.content(found.path, found.file))
    text = " ".join(names[int(number)] for number in train_set[0][:6])
    assert text == "⟨start⟩ this film was just brilliant"
    assert (names[4], names[5]) == ("the", "and")
