"""The networks of the documents as stacks: values and gradients are those of separate networks."""

import copy

import numpy as np
import pytest

import microtensor as mt
from microtensor import nn
from models import (
    adding,
    binary_echo,
    carry_track,
    cells,
    hand_lstm,
    imdb,
    jena,
    memory,
    numpy_rnn,
    sin_cos,
    spiral,
    summaries,
    truncated_bptt,
    vanishing,
)

K, T, B, H = 3, 5, 2, 7


def words(rng, *shape):
    return (rng.integers(0, 9, (K, *shape)),)


def numbers(*shape, dtype="float32"):
    return lambda rng: (mt.tensor(rng.normal(size=(K, *shape)).astype(dtype)),)


def echo(rng):
    bits = mt.tensor(np.eye(2, dtype="float32")[rng.integers(0, 2, (K, T, B))])
    return bits, mt.tensor(rng.normal(size=(K, B, H)).astype("float32"))


def adding_inputs(rng):
    return *numbers(T, B, 2)(rng), rng.integers(1, T + 1, (K, B))


class Read(nn.Module):
    """A `WordReader` as one function."""

    knows_trials = True

    def __init__(self, g):
        self.reader = truncated_bptt.WordReader(9, 4, H, dropout=0.3, generator=g)

    def forward(self, numbers):
        states, _ = self.reader.rnn(self.reader.embed(numbers))
        return self.reader.logits(states)


MODELS = {
    "adding": (
        lambda g: adding.Adding(nn.LSTM(2, H, generator=g), H, logistic=True, generator=g),
        adding_inputs,
    ),
    **{
        f"echo {name}": (
            lambda g, kind=kind: kind(binary_echo.initial_weights(g, H)),
            echo,
        )
        for name, kind in binary_echo.BUILDS.items()
    },
    "carry track": (
        lambda g: nn.Recurrent(carry_track.CarryTrack(4, H, gate=mt.sigmoid, generator=g)),
        numbers(T, B, 4),
    ),
    "cells": (
        lambda g: cells.Reading(nn.GRU(4, H, generator=g), H, 6, generator=g),
        numbers(T, B, 4),
    ),
    **{
        f"imdb {cell}": (
            lambda g, cell=cell: imdb.ReviewReader(cell, 9, 4, H, bidirectional=True, generator=g),
            lambda rng: words(rng, T, B),
        )
        for cell in ("rnn", "lstm", "hard_lstm")
    },
    **{
        f"jena {name}": (lambda g, build=build: build(T, 4, g), numbers(B, T, 4))
        for name, build in jena.BUILDERS.items()
    },
    "numpy_rnn": (
        lambda g: numpy_rnn.as_layer(numpy_rnn.contracting_weights(g, 4, H, 0.9)),
        numbers(T, B, 4, dtype="float64"),
    ),
    "sin_cos": (lambda g: sin_cos.SinCos(H, generator=g), numbers(B, T, 1)),
    "spiral": (
        lambda g: spiral.SpiralNet(
            spiral.initial_weights(np.random.RandomState(int(g.integers(0, 99))), H), "relu"
        ),
        numbers(B, 2, dtype="float64"),
    ),
    "summaries": (lambda g: summaries.lstm_classifier(), lambda rng: words(rng, B, T)),
    "summaries, all steps": (lambda g: summaries.stacked(), lambda rng: words(rng, B, T)),
    "words": (Read, lambda rng: words(rng, T, B)),
    "stories": (
        lambda g: vanishing.StoryReader("gru", 9, 6, H, generator=g),
        lambda rng: words(rng, T, B),
    ),
}


def tensors(value):
    """All tensors of a result, in order."""
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in tensors(item)]
    return [value]


@pytest.mark.parametrize("name", MODELS)
def test_a_document_s_network_in_a_stack(name):
    build, draw = MODELS[name]
    models = [build(mt.Generator(k)) for k in range(K)]
    inputs = draw(np.random.default_rng(0))
    stacked = nn.stack(copy.deepcopy(models))
    together = tensors(stacked(*inputs))
    cotangents = [np.random.default_rng(1).normal(size=t.shape).astype(t.dtype) for t in together]
    sum((t * c).sum() for t, c in zip(together, cotangents, strict=True)).backward()
    tolerance = {"rtol": 1e-4, "atol": 1e-5}
    for k, model in enumerate(models):
        alone = tensors(model(*[value[k] for value in inputs]))
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy()[k], **tolerance)
        sum((t * c[k]).sum() for t, c in zip(alone, cotangents, strict=True)).backward()
        for mine, theirs in zip(model.parameters(), stacked.parameters(), strict=True):
            np.testing.assert_allclose(mine.grad.numpy(), theirs.grad.numpy()[k], **tolerance)


@pytest.mark.parametrize(
    "model",
    [hand_lstm.HandLSTM(), memory.MemoryLSTM([mt.Generator(0)])],
    ids=lambda model: type(model).__name__,
)
def test_networks_that_bring_their_own_trials_or_have_one_are_refused(model):
    with pytest.raises(TypeError, match=f"{type(model).__name__} does not know"):
        nn.stack([model, model])
