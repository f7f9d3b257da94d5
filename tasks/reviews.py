"""Keras' file of the IMDB reviews: read without trusting it, arranged as `imdb.load_data` does.

The file is an npz whose two arrays of reviews are object arrays, and these are pickles: a pickle is
a program, and loading one from a stranger is to run it. So nothing is read before the file's hash
has been compared (`tasks.datasets`), and even then by an unpickler that knows lists, integers and
the three names with which NumPy writes an object array, for which it has stand-ins of its own.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tasks.datasets import DataSet, File
from tasks.harness import UsageError

CITATION = (
    "Maas, Daly, Pham, Huang, Ng and Potts 2011, Learning word vectors for sentiment analysis, ACL."
)
_WHERE = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"

IMDB = DataSet(
    name="imdb",
    files=(
        File(
            "imdb.npz",
            "sha256:69664113be75683a8fe16e3ed0ab59fda8886cb3cd7ada244f7d9544e4676b9f",
            17_464_789,
            urls=(f"{_WHERE}imdb.npz", "https://s3.amazonaws.com/text-datasets/imdb.npz"),
        ),
    ),
    citation=CITATION,
    about="50,000 film reviews as word numbers",
)

WORD_INDEX = DataSet(
    name="imdb_word_index",
    files=(
        File(
            "imdb_word_index.json",
            "sha256:027313fe9a320280f3bf0fac5baf58c4a683cf39a7ed9c3d3d3912bde4284cf6",
            1_641_221,
            urls=(
                f"{_WHERE}imdb_word_index.json",
                "https://s3.amazonaws.com/text-datasets/imdb_word_index.json",
            ),
        ),
    ),
    citation=CITATION,
    about="the words that the numbers stand for",
)

Generation = Literal["2.0", "tf2"]
"""Keras as Chollet's book and its log used it, and Keras since it came with TensorFlow 2."""

PAD, START, UNKNOWN, FIRST_WORD = 0, 1, 2, 3
"""Numbers with a meaning of their own; the word of rank r, from 1, has the number r + 3."""


@dataclass(frozen=True)
class Reviews:
    """Reviews as one flat array, since 25,000 lists of Python's integers are slow and large.

    tokens : all reviews one after the other, int32.
    ends : where each begins, and where the last one ends: shape (n + 1,).
    labels : 1 for a good review, 0 for a bad one; shape (n,), int8.
    """

    tokens: np.ndarray
    ends: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, pieces: Sequence[np.ndarray], labels: np.ndarray) -> Reviews:
        """From one array a review."""
        ends = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces], dtype=np.int64)])
        tokens = np.concatenate([np.zeros(0, np.int32), *pieces]).astype(np.int32)
        return cls(tokens, ends, np.asarray(labels, np.int8))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.tokens[self.ends[i] : self.ends[i + 1]]

    def take(self, indices: np.ndarray) -> Reviews:
        """The reviews of these numbers, in this order."""
        return Reviews.of([self[i] for i in indices], self.labels[indices])

    def padded(self, length: int, *, reverse: bool = False) -> np.ndarray:
        """All reviews at one length, (n, length) int32, as `pad_sequences` makes them.

        A longer review loses its beginning, a shorter one gets zeros in front. With `reverse` the
        reviews are turned around before, so that a longer one loses its end.
        """
        rows = np.full((len(self), length), PAD, np.int32)
        for row, (start, end) in zip(rows, itertools.pairwise(self.ends), strict=True):
            piece = self.tokens[start : min(end, start + length)][::-1]
            if not reverse:
                piece = self.tokens[max(start, end - length) : end]
            row[length - len(piece) :] = piece
        return rows


# -- reading -----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def read(content: bytes) -> tuple[Reviews, Reviews]:
    """The 25,000 reviews for training and the 25,000 for testing, as they stand in the file.

    Parameters
    ----------
    content
        The npz file, whole and verified. What it holds is kept for the next call in this process.

    Raises
    ------
    UsageError
        It holds something else than lists of integers and their labels.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = {name: archive.read(f"{name}.npy") for name in _PARTS}
        train, test = (
            Reviews(*_object_array(parts[f"x_{name}"]), _labels(parts[f"y_{name}"]))
            for name in ("train", "test")
        )
    except Refused as error:
        raise UsageError(f"imdb.npz is refused: {error}") from error
    except Exception as error:  # a pickle may end in any error, and none is a reason to go on
        raise UsageError(f"imdb.npz cannot be read: {type(error).__name__}: {error}") from error
    for reviews in (train, test):
        if len(reviews.ends) != len(reviews.labels) + 1:
            raise UsageError("imdb.npz is refused: there is not one label a review")
    return train, test


_PARTS = ("x_train", "y_train", "x_test", "y_test")


class Refused(pickle.UnpicklingError):
    """A pickle that is more than an array of lists of integers."""


class _Array:
    """Stands in for the object array while it is unpickled; keeps its items and does nothing."""

    shape: Any = None
    items: Any = None

    def __init__(self, kind: Any, shape: Any, code: Any) -> None:
        if kind is not _Kind:
            raise Refused("an array of an unknown kind")

    def __setstate__(self, state: Any) -> None:
        _, self.shape, _, _, self.items = state


class _Kind:
    """Stands in for `numpy.ndarray`, which is mentioned and not called."""

    def __init__(self) -> None:
        raise Refused("numpy.ndarray is called")


class _Type:
    """Stands in for `numpy.dtype`."""

    def __init__(self, name: Any, align: Any, copy: Any) -> None:
        if name not in ("O8", "O4", "O"):
            raise Refused(f"an array of type {name!r}")

    def __setstate__(self, state: Any) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    """Knows the three names in which an object array is written, under all of NumPy's spellings."""

    def find_class(self, module: str, name: str) -> Any:
        """Our stand-in for a name, or a refusal."""
        match module, name:
            case ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct"):
                return _Array
            case ("numpy", "ndarray"):
                return _Kind
            case ("numpy", "dtype"):
                return _Type
        raise Refused(f"its pickle asks for {module}.{name}, and reviews need no such thing")

    def persistent_load(self, pid: Any) -> Any:
        """Nothing is stored elsewhere."""
        raise Refused(f"its pickle asks for an object stored elsewhere, {pid!r}")


def _object_array(part: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and ends of an object array of lists of integers, in npy format."""
    file = io.BytesIO(part)
    shape, _, dtype = _header(file)
    if dtype != np.dtype(object):
        raise Refused(f"reviews of type {dtype}")
    array = _Unpickler(file).load()
    if not isinstance(array, _Array) or type(array.items) is not list:
        raise Refused("its pickle holds no object array")
    lists = array.items
    if array.shape != shape or shape != (len(lists),):
        raise Refused(f"{len(lists)} reviews in an array of shape {shape}")
    if not set(map(type, lists)) <= {list}:
        raise Refused("a review that is no list")
    if not set(map(type, itertools.chain.from_iterable(lists))) <= {int}:
        raise Refused("a word that is no integer")
    ends = np.concatenate([[0], np.cumsum([len(words) for words in lists], dtype=np.int64)])
    tokens = np.fromiter(itertools.chain.from_iterable(lists), np.int32, int(ends[-1]))
    if tokens.size and tokens.min() < 1:
        raise Refused("a word whose rank is below 1")
    return tokens, ends


def _labels(part: bytes) -> np.ndarray:
    labels = np.lib.format.read_array(io.BytesIO(part), allow_pickle=False)
    if not np.isin(labels, (0, 1)).all():
        raise Refused("a label that is neither 0 nor 1")
    return labels.astype(np.int8)


def _header(file: io.BytesIO) -> tuple[Any, bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise Refused(f"an npy file of version {version}")
    return np.lib.format.read_array_header_1_0(file)


# -- as Keras arranges them --------------------------------------------------------------------


def orders(train: int, test: int, generation: Generation) -> tuple[np.ndarray, np.ndarray]:
    """In which order Keras hands out the reviews: two permutations.

    Keras 2.0 seeds NumPy's global stream with 113 before it shuffles the reviews, and again before
    it shuffles the labels; for testing with 226. Later Keras shuffles row numbers by one stream
    seeded with 113, training first. The first permutation is therefore the same one: both
    generations hold out the same reviews for validation, and differ in the order of testing only.
    """
    first, second = np.arange(train), np.arange(test)
    stream = np.random.RandomState(113)  # Keras' own stream is what is wanted
    stream.shuffle(first)
    if generation == "2.0":
        stream = np.random.RandomState(226)
    stream.shuffle(second)
    return first, second


def load_data(
    content: bytes, num_words: int, generation: Generation = "tf2"
) -> tuple[Reviews, Reviews]:
    """What `keras.datasets.imdb.load_data(num_words=…)` returns: training and test reviews.

    Each begins with `START`; ranks are moved by 3; what then is no number below `num_words` is
    `UNKNOWN`. With 10,000 that leaves the 9,996 most frequent words.
    """
    sets = read(content)
    first, second = orders(len(sets[0]), len(sets[1]), generation)
    return (
        _with_marks(sets[0].take(first), num_words),
        _with_marks(sets[1].take(second), num_words),
    )


def _with_marks(reviews: Reviews, num_words: int) -> Reviews:
    ends = reviews.ends + np.arange(len(reviews.ends))
    tokens = np.full(int(ends[-1]), START, np.int32)
    words = np.ones(len(tokens), bool)
    words[ends[:-1]] = False
    tokens[words] = reviews.tokens + FIRST_WORD
    tokens[tokens >= num_words] = UNKNOWN
    return Reviews(tokens, ends, reviews.labels)


def word_index(content: bytes) -> Mapping[int, str]:
    """The word for each number that `load_data` hands out, from the content of Keras' JSON file."""
    ranks: dict[str, int] = json.loads(content)
    marks = {PAD: "·", START: "⟨start⟩", UNKNOWN: "⟨?⟩"}
    return marks | {rank + FIRST_WORD: word for word, rank in ranks.items()}
