"""`summary`: shapes, counts, and that it leaves no trace."""

import numpy as np
import pytest

import microtensor as mt
from microtensor import nn
from microtensor.summary import summary


class SinCos(nn.Module):
    def __init__(self):
        self.linear_in = nn.Linear(1, 10)
        self.lstm = nn.LSTM(10, 10, bias="single")
        self.linear_out = nn.Linear(10, 1)

    def forward(self, x, state=None):
        y, state = self.lstm(self.linear_in(x), state)
        return self.linear_out(y), state


def test_the_table_survives_output_and_state(capsys):
    result = summary(SinCos(), mt.zeros((20, 50, 1)))
    assert capsys.readouterr().out == (
        "layer                  output shape                              parameters\n"
        "---------------------------------------------------------------------------\n"
        "SinCos                 (20, 50, 1), ((1, 50, 10), (1, 50, 10))            -\n"
        "  linear_in (Linear)   (20, 50, 10)                                      20\n"
        "  lstm (LSTM)          (20, 50, 10), ((1, 50, 10), (1, 50, 10))         840\n"
        "  linear_out (Linear)  (20, 50, 1)                                       11\n"
        "---------------------------------------------------------------------------\n"
        "871 parameters, 871 trainable, 3.4 KiB\n"
    )
    assert repr(result) == "Summary(layers=4, parameters=871)"
    assert result.rows[2].output == ((20, 50, 10), ((1, 50, 10), (1, 50, 10)))


class Stacked(nn.Module):
    def __init__(self, layers):
        self.embedding = nn.Embedding(10000, 32)
        self.layers = nn.ModuleList(nn.RNN(32, 32, bias="single") for _ in range(layers))

    def forward(self, indices):
        x = self.embedding(indices)
        for layer in self.layers:
            x, _ = layer(x)
        return x


@pytest.mark.parametrize(("layers", "count"), [(1, 322_080), (4, 328_320)])
def test_counts_of_the_documents(layers, count):
    result = summary(Stacked(layers), mt.tensor(np.zeros((3, 2), int)))
    assert result.parameters == count
    assert "not called" in str(result)  # the ModuleList itself


def test_shared_and_frozen_parameters_count_once_and_apart():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    model[0].bias.requires_grad = False
    result = summary(model, mt.zeros((2, 3)))
    assert (result.parameters, result.trainable) == (15, 12)
    assert [row.parameters for row in result.rows] == [0, 12, 0, 3]


def test_it_leaves_no_trace():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 2))
    model[1].eval()
    state = mt.default_generator().get_state()
    summary(model, mt.zeros((2, 3)))
    assert mt.default_generator().get_state() == state
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert all("forward" not in vars(module) for module in model.modules())
    with pytest.raises(ValueError, match="linear"):
        summary(model, mt.zeros((2, 4)))
    assert all("forward" not in vars(module) for module in model.modules())
    assert model.training
    with pytest.raises(TypeError, match="needs a Module"):
        summary(mt.tanh, mt.zeros(3))
