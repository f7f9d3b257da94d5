"""Document 002: an embedding and a recurrent layer judge film reviews, in Keras' way.

The document retells section 6.2 of Chollet's "Deep Learning with Python"; the book's own log (Keras
2.0.8) and the two epochs that the document prints (Keras of TensorFlow 2) stand here as `LOG` and
`DOCUMENT`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import microtensor as mt
from microtensor import nn
from models.imdb import ReviewReader
from tasks import datasets, plots
from tasks.harness import (
    Level,
    Row,
    Run,
    Settings,
    Task,
    Trial,
    at_least,
    check_counts,
    check_learning_rate,
    check_named_once,
    judged,
    median_of,
    within,
)
from tasks.reviews import (
    IMDB,
    START,
    WORD_INDEX,
    Generation,
    Reviews,
    load_data,
    word_index,
)
from tasks.work import Work

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Model = Literal["rnn", "lstm", "reversed", "bidirectional"]

LOG = {
    "rnn": (
        (0.6455, 0.6210, 0.5293, 0.7758),
        (0.4005, 0.8362, 0.4752, 0.7742),
        (0.2739, 0.8920, 0.4947, 0.8064),
        (0.1916, 0.9290, 0.3783, 0.8460),
        (0.1308, 0.9528, 0.5755, 0.7376),
        (0.0924, 0.9675, 0.5829, 0.7634),
        (0.0726, 0.9768, 0.5541, 0.7932),
        (0.0426, 0.9862, 0.5551, 0.8292),
        (0.0300, 0.9918, 0.5962, 0.8312),
        (0.0256, 0.9925, 0.6707, 0.8054),
    ),
    "lstm": (
        (0.5038, 0.7574, 0.3853, 0.8346),
        (0.2917, 0.8866, 0.3020, 0.8794),
        (0.2305, 0.9105, 0.3125, 0.8688),
        (0.2033, 0.9261, 0.4013, 0.8574),
        (0.1749, 0.9385, 0.3273, 0.8912),
        (0.1543, 0.9457, 0.3505, 0.8774),
        (0.1417, 0.9493, 0.4485, 0.8396),
        (0.1331, 0.9522, 0.3242, 0.8928),
        (0.1147, 0.9618, 0.4216, 0.8746),
        (0.1092, 0.9628, 0.3972, 0.8758),
    ),
}
"""The book's log: for each epoch training loss and accuracy, validation loss and accuracy."""

DOCUMENT = {1: (0.5143, 0.7509, 0.3383, 0.8672), 10: (0.1113, 0.9615, 0.4926, 0.8614)}
"""The document's log of the LSTM: epoch → the same four numbers."""

BEST = {"rnn": 0.8460, "lstm": 0.8928, "reversed": 0.8770, "bidirectional": 0.8856}
"""The book's highest validation accuracy of each network."""

PASSES = {
    "rnn": (0.80, 0.87),
    "lstm": at_least(0.86),
    "reversed": at_least(0.85),
    "bidirectional": at_least(0.85),
}
"""Between which limits our highest validation accuracy confirms the book's."""

NAMES = {
    "rnn": "SimpleRNN",
    "lstm": "LSTM",
    "reversed": "LSTM, reviews reversed",
    "bidirectional": "bidirectional LSTM",
}

COLUMNS = ("loss", "accuracy", "val_loss", "val_accuracy")


@dataclass(frozen=True, kw_only=True)
class ImdbSettings(Settings):
    """The defaults are the document's."""

    trials: int = 3
    """Independent repetitions; each has its own weights and order of the reviews."""

    models: tuple[Model, ...] = ("rnn", "lstm", "reversed", "bidirectional")
    """Which networks to train."""

    keras: Generation = "tf2"
    """Whose habits: 2.0 has hard gates, a smaller epsilon, another order of the test reviews."""

    reviews: Literal["imdb", "synthetic"] = "imdb"
    """The 50,000 real reviews, or stand-ins made by a generator, which need no file."""

    count: int = 25000
    """How many reviews there are for training and validation; as many are for testing."""

    words: int = 10000
    """Words known; all rarer ones are one word."""

    length: int = 500
    """Words read of a review, its last ones."""

    hidden_size: int = 32
    """Units of the recurrent layer."""

    epochs: int = 10
    """Passes over the training reviews."""

    batch: int = 128
    """Reviews in a batch."""

    learning_rate: float = 0.001
    """Step size of RMSprop."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        super().__post_init__()
        check_learning_rate(self.learning_rate)
        check_counts(self, "length", "hidden_size", "epochs", "batch")
        if not 5 <= self.count <= 25000:
            raise ValueError(f"count must be from 5 to 25000; got {self.count}")
        if self.words < 20:
            raise ValueError(f"words must be at least 20; got {self.words}")
        check_named_once("models", self.models)

    @property
    def validation(self) -> int:
        """The last fifth of the reviews is held out (`validation_split=0.2`)."""
        return self.count // 5

    @property
    def batches(self) -> int:
        """Updates in an epoch."""
        return -(-(self.count - self.validation) // self.batch)


def data(settings: ImdbSettings) -> Sequence[datasets.DataSet]:
    """Keras' two files; none for the stand-ins."""
    return (IMDB, WORD_INDEX) if settings.reviews == "imdb" else ()


def synthetic(settings: ImdbSettings, generator: mt.Generator) -> tuple[Reviews, Reviews]:
    """Stand-ins for reviews, in training and test sets of `count` each.

    Words are drawn evenly, and one in five of them from four that only good reviews use, or from
    four that only bad ones use: something that every network here can learn in seconds.
    """
    return (_synthetic(settings, generator), _synthetic(settings, generator))


def _synthetic(settings: ImdbSettings, generator: mt.Generator) -> Reviews:
    labels = generator.integers(0, 2, (settings.count,))
    lengths = generator.integers(min(10, settings.length), settings.length + 10, (settings.count,))
    pieces = []
    for label, length in zip(labels, lengths, strict=True):
        words = generator.integers(12, settings.words, (int(length),))
        telling = generator.uniform(shape=(int(length),)) < 0.2
        words[telling] = generator.integers(4, 8, (int(telling.sum()),)) + 4 * label
        words[0] = START
        pieces.append(words)
    return Reviews.of(pieces, labels)


def arrays(
    settings: ImdbSettings, variant: str, train: Reviews, test: Reviews
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Word numbers (n, length) int32 and labels (n,) of "train", "val" and "test".

    The bidirectional network reads reversed reviews too: in the book's notebook the variable
    still holds them.
    """
    reverse = variant in ("reversed", "bidirectional")
    kept = settings.count - settings.validation
    x = train.padded(settings.length, reverse=reverse)[: settings.count]
    y = train.labels[: settings.count]
    x_test = test.padded(settings.length, reverse=reverse)[: settings.count]
    return {
        "train": (x[:kept], y[:kept]),
        "val": (x[kept:], y[kept:]),
        "test": (x_test, test.labels[: settings.count]),
    }


def network(settings: ImdbSettings, variant: str, generator: mt.Generator) -> ReviewReader:
    """The network of a variant; the book gave the reversed one 128 numbers a word, not 32."""
    cell = "rnn" if variant == "rnn" else "lstm" if settings.keras == "tf2" else "hard_lstm"
    return ReviewReader(
        cell,
        settings.words,
        _embedding_size(variant),
        settings.hidden_size,
        bidirectional=variant == "bidirectional",
        generator=generator,
    )


def _embedding_size(variant: str) -> int:
    return 128 if variant == "reversed" else 32


def train(work: Work) -> list[Trial]:
    """One network on one seed: ten epochs, after each the validation reviews; at last the test."""
    settings: ImdbSettings = work.settings
    [number] = work.trials
    if settings.reviews == "imdb":
        sets = load_data(work.content("imdb"), settings.words, settings.keras)
    else:
        sets = synthetic(settings, work.generator("reviews"))
    parts = arrays(settings, work.variant, *sets)
    x, y = parts["train"]
    model = network(settings, work.variant, work.generator("weights"))
    epsilon = 1e-7 if settings.keras == "tf2" else 1e-8
    optimizer = mt.optim.RMSprop(
        model.parameters(), lr=settings.learning_rate, alpha=0.9, eps=epsilon
    )
    sums = {"loss": 0.0, "right": 0, "seen": 0}
    for step in work.steps(
        settings.epochs * settings.batches, model=model, optimizer=optimizer, sums=sums
    ):
        epoch, batch = divmod(step, settings.batches)
        if batch == 0:
            sums.update(loss=0.0, right=0, seen=0)
        order = work.generator("order", epoch).permutation(len(y))
        chosen = order[batch * settings.batch : (batch + 1) * settings.batch]
        logits = model(mt.tensor(np.ascontiguousarray(x[chosen].T)))
        target = y[chosen].astype(np.float32)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, mt.tensor(target))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        # Keras' training figures: means over the epoch, while the weights change under way.
        sums["loss"] += loss.item() * len(chosen)
        sums["right"] += int(((logits.detach().numpy() > 0) == target).sum())
        sums["seen"] += len(chosen)
        now = (sums["loss"] / sums["seen"], sums["right"] / sums["seen"])
        if batch + 1 == settings.batches:
            held_out = evaluate(model, *parts["val"])
            work.log(epoch + 1, **dict(zip(COLUMNS, (*now, *held_out), strict=True)))
        else:
            work.status(f"epoch {epoch + 1}, loss {now[0]:.3f}, accuracy {now[1]:.3f}")
    return [_trial(number, work, model, parts)]


def _trial(number: int, work: Work, model: ReviewReader, parts: Mapping[str, Any]) -> Trial:
    last = work.metrics[-1].values
    accuracy = [m.values["val_accuracy"] for m in work.metrics]
    losses = [m.values["val_loss"] for m in work.metrics]
    words, labels = parts["val"]
    values = {
        "parameters": sum(int(np.prod(p.shape)) for p in model.parameters()),
        "best_val_accuracy": max(accuracy),
        "best_epoch": 1 + int(np.argmax(accuracy)),
        "lowest_val_loss_epoch": 1 + int(np.argmin(losses)),
        "last_accuracy": last["accuracy"],
        "last_val_accuracy": last["val_accuracy"],
        "test_accuracy": evaluate(model, *parts["test"])[1],
        "review_label": int(labels[0]),
        "review_probability": float(1 / (1 + np.exp(-predict(model, words[:1])[0]))),
    }
    return Trial(number, values=values, model=model.state_dict(), arrays={"review": words[0]})


def _slices(count: int, size: int = 500) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def predict(model: ReviewReader, words: np.ndarray) -> np.ndarray:
    """The logits of reviews (n, length), without gradients: (n,) float64."""
    with mt.no_grad():
        pieces = [
            model(mt.tensor(np.ascontiguousarray(words[part].T))).numpy()
            for part in _slices(len(words))
        ]
    return np.concatenate(pieces).astype(np.float64)


def evaluate(model: ReviewReader, words: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Mean cross-entropy in nats and accuracy over all reviews."""
    logits = predict(model, words)
    losses = np.logaddexp(0.0, logits) - logits * labels
    return float(losses.mean()), float(((logits > 0) == labels).mean())


# -- what is compared --------------------------------------------------------------------------


def levels(settings: ImdbSettings) -> Sequence[Level]:
    """Good and bad reviews are equally many."""
    return (Level("guessing", 0.5),)


def rows(run: Run) -> list[Row]:
    """The published figures beside the median of ours, network by network."""
    settings: ImdbSettings = run.settings
    as_published = run.preset != "quick" and settings == ImdbSettings(
        trials=settings.trials, models=settings.models, keras=settings.keras
    )
    table = []
    for variant in settings.models:
        name = NAMES[variant]
        count = parameters(settings, variant)
        table.append(
            Row(
                f"{name}: parameters",
                run.values("parameters", variant)[0],
                target=count,
                source="document" if count == 328353 else "computed",
                tolerance=within(count, 0),
            )
        )
        known = tuple(levels(settings))
        about = "The published figure is one run's best epoch on the same 5,000 reviews."
        table.append(
            Row(
                f"{name}: highest validation accuracy of {settings.epochs} epochs",
                **median_of(run.values("best_val_accuracy", variant)),
                **judged(BEST[variant], "upstream", PASSES[variant], when=as_published),
                levels=known,
                note=about if as_published else "",
            )
        )
        printed = as_published and variant == "lstm"
        table += [
            Row(
                f"{name}: training accuracy, epoch {settings.epochs}",
                **median_of(run.values("last_accuracy", variant)),
                **judged(DOCUMENT[10][1], "document", at_least(0.95), when=printed),
                levels=known,
            ),
            Row(
                f"{name}: validation accuracy, epoch {settings.epochs}",
                **median_of(run.values("last_val_accuracy", variant)),
                levels=known,
            ),
            Row(
                f"{name}: epoch of the lowest validation loss",
                **median_of(run.values("lowest_val_loss_epoch", variant)),
            ),
            Row(
                f"{name}: accuracy on the {settings.count:,} test reviews, epoch {settings.epochs}",
                **median_of(run.values("test_accuracy", variant)),
                levels=known,
            ),
        ]
    return table


def parameters(settings: ImdbSettings, variant: str) -> int:
    """What Keras counts: embedding, kernels and one bias a gate, and the last layer."""
    wide, hidden = _embedding_size(variant), settings.hidden_size
    gates, directions = 1 if variant == "rnn" else 4, 2 if variant == "bidirectional" else 1
    recurrent = directions * gates * hidden * (wide + hidden + 1)
    return settings.words * wide + recurrent + directions * hidden + 1


def printout(run: Run) -> str:
    """What Keras prints after each epoch, the book's log beside it, and one review in words."""
    settings: ImdbSettings = run.settings
    parts = []
    if settings.reviews == "synthetic":
        parts.append("The reviews are synthetic stand-ins, made by a generator: no figure counts.")
    logs = [_log(run, variant) for variant in settings.models]
    return "\n\n".join([*parts, *logs, _one_review(run)])


def _log(run: Run, variant: str) -> str:
    published = LOG.get(variant, ()) if run.settings.reviews == "imdb" else ()
    beside = ", in brackets the book's log" if published else ""
    lines = [f"{NAMES[variant]}, median of the trials{beside}"]
    lines.append("epoch" + "".join(f"{name:>17}" for name in COLUMNS))
    steps, _ = run.curve("loss", variant)
    ours = [np.median(run.curve(name, variant)[1], axis=0) for name in COLUMNS]
    for i, epoch in enumerate(steps):
        cells = [f"{column[i]:.4f}" for column in ours]
        if i < len(published):
            cells = [f"{ours} ({book:.4f})" for ours, book in zip(cells, published[i], strict=True)]
        lines.append(f"{epoch:5}" + "".join(f"{cell:>17}" for cell in cells))
        if variant == "lstm" and published and int(epoch) in DOCUMENT:
            cells = [f"{value:.4f}{'':9}" for value in DOCUMENT[int(epoch)]]
            line = f"{epoch:5}" + "".join(f"{cell:>17}" for cell in cells)
            lines.append(f"{line} is what the document prints")
    return "\n".join(lines)


def _one_review(run: Run) -> str:
    """The first review that is held out, as the first network read it."""
    variant = run.settings.models[0]
    trial = run.of(variant)[0]
    numbers = [int(number) for number in trial.arrays["review"] if number]
    if variant in ("reversed", "bidirectional"):
        numbers = numbers[::-1]
    names: Mapping[int, str] = {}
    for found in run.data:
        if found.name == WORD_INDEX.name:
            names = word_index(datasets.content(found.path, found.file))
    text = " ".join(names.get(number, str(number)) for number in numbers)
    verdict = "good" if trial.values["review_label"] else "bad"
    head = (
        f"The first review held out, a {verdict} one; {NAMES[variant]} (trial {trial.number}) says "
        f"good with probability {trial.values['review_probability']:.3f}:"
    )
    return f"{textwrap.fill(head, 96)}\n\n{textwrap.fill(text, 96)}"


def figures(run: Run) -> Mapping[str, Figure]:
    """Accuracy and loss over the epochs, training against validation, network by network."""
    return {
        "accuracy": _curves(run, "accuracy", 1, "accuracy (part of the reviews)"),
        "loss": _curves(run, "loss", 0, "cross-entropy (nats)"),
    }


def _curves(run: Run, name: str, column: int, label: str) -> Figure:
    models = run.settings.models
    lines = -(-len(models) // 2)
    figure, axes = plots.new_figure(
        lines,
        min(len(models), 2),
        width=9.0 if len(models) > 1 else 8.0,
        height=1.2 + 3.3 * lines,
        sharex=True,
        sharey=True,
    )
    flat = np.atleast_1d(axes).reshape(-1)
    real = run.settings.reviews == "imdb"
    for axis, variant in zip(flat, models, strict=False):
        for metric, words, color, style, marker in (
            (name, "training", plots.PALETTE[0], "-", "o"),
            (f"val_{name}", "validation", plots.PALETTE[1], "--", "s"),
        ):
            steps, values = run.curve(metric, variant)
            plots.curves(axis, steps, values, label=words, color=color, style=style)
            published = LOG.get(variant, ()) if real else ()
            offset = 0 if metric == name else 2
            epochs = range(1, min(len(published), run.settings.epochs) + 1)
            axis.plot(
                epochs,
                [published[epoch - 1][column + offset] for epoch in epochs],
                marker,
                color=color,
                markerfacecolor="none",
                markersize=5,
                label=f"{words}, the book's log",
            )
            if real and variant == "lstm":
                epochs = [epoch for epoch in DOCUMENT if epoch <= run.settings.epochs]
                axis.plot(
                    epochs,
                    [DOCUMENT[epoch][column + offset] for epoch in epochs],
                    "^",
                    color=color,
                    markersize=7,
                    label=f"{words}, the document",
                )
        if real and name == "accuracy" and variant not in LOG:
            axis.axhline(BEST[variant], color="0.35", linestyle=":", linewidth=1.2)
            axis.annotate(
                f"dotted: the book's best epoch, validation: {BEST[variant]}",
                xy=(0.98, 0.04),
                xycoords="axes fraction",
                ha="right",
                fontsize=8,
                color="0.25",
            )
        axis.set_title(NAMES[variant])
    for axis in flat[len(models) :]:
        axis.set_visible(False)
    if run.settings.epochs > 1:
        flat[0].set_xlim(0.5, run.settings.epochs + 0.5)
    flat[0].xaxis.get_major_locator().set_params(integer=True)
    for axis in flat[max(len(models) - 2, 0) : len(models)]:
        axis.set_xlabel("epoch")
        axis.tick_params(labelbottom=True)
    for axis in flat[::2]:
        axis.set_ylabel(label)
    kind = "Film reviews" if real else "Synthetic stand-ins for film reviews"
    figure.suptitle(f"{kind}: {name} over the epochs")
    known = {}
    for axis in flat[: len(models)]:
        handles, texts = axis.get_legend_handles_labels()
        known |= {
            text: handle
            for handle, text in zip(handles, texts, strict=True)
            if real or "book" not in text
        }
    order = sorted(known, key=lambda text: (not text.startswith("training"), text))
    figure.legend(
        [known[text] for text in order],
        order,
        loc="outside lower center",
        ncols=max(2, len(order) // 2),
        frameon=False,
        fontsize=9,
    )
    return figure


TASK = Task(
    name="imdb",
    documents=("002",),
    title="an embedding and an RNN or LSTM judge 50,000 film reviews",
    claim="""
        A review is a row of word numbers; an embedding makes 32 numbers of each, a recurrent layer
        of 32 units reads them, and its last state decides: good or bad? The document trains an
        LSTM for ten epochs and prints the first and the last of them (validation accuracy 0.8672
        and 0.8614). It retells Chollet's book, where a simple RNN reaches 0.846 at best and the
        LSTM 0.893; where an LSTM that reads the reviews from their end does about as well, so that
        the order of words matters little here; and where reading both ways does not help either.

        What is to be known: the document leaves out its imports and two variables (10,000 words,
        500 words a review). The validation reviews are the last fifth of the 25,000, after a
        shuffle that Keras does by itself; both generations of Keras hold out the same 5,000. The
        book's notebook sets a batch size of 32 and trains with 128. Its bidirectional network
        reads reviews that are still reversed. Keras 2.0 used hard gates (--keras 2.0), Keras of
        TensorFlow 2 logistic ones. Padding is a word like any other: nothing is masked.

        All figures are of the best of ten epochs on the very reviews that chose it, which flatters
        them; the test reviews, which nobody chose anything by, are a row of their own here.
    """,
    equations="""
        e_t = E[word_t]                       E: 10,000 × 32, starts in U(−0.05, 0.05)
        RNN    h_t = tanh(W e_t + U h_(t-1) + b)
        LSTM   i, f, g, o = W e_t + U h_(t-1) + b
               c_t = σ(f) c_(t-1) + σ(i) tanh(g),   h_t = σ(o) tanh(c_t)
        p = σ(w · h_500 + b),   loss = −y log p − (1 − y) log(1 − p)
        RMSprop: v ← 0.9 v + 0.1 g²,   θ ← θ − 0.001 g / (√v + 1e-7)
        parameters: 320,000 + 2,080 + 33 = 322,113 (RNN), 320,000 + 8,320 + 33 = 328,353 (LSTM)
    """,
    look_for="""
        Training accuracy goes on rising to 0.96 and more while validation accuracy stands still
        from the second or third epoch on, and validation loss rises: the networks overfit, and the
        last epoch is not the best one. The row "epoch of the lowest validation loss" says when to
        stop.

        Single epochs of the book's log jump by several hundredths: the best of ten is a
        lucky one, and 0.893 against 0.877 is no difference between two networks. Compare the test
        accuracies and their spread over the trials.
    """,
    settings=ImdbSettings,
    presets={
        "quick": ImdbSettings(
            trials=1,
            reviews="synthetic",
            count=320,
            words=200,
            length=25,
            hidden_size=8,
            epochs=4,
            batch=16,
            learning_rate=0.01,
        ),
        "document": ImdbSettings(),
    },
    durations={"quick": "3 s", "document": "30 min"},
    train=train,
    rows=rows,
    levels=levels,
    variants=lambda settings: settings.models,
    data=data,
    figures=figures,
    printout=printout,
)
