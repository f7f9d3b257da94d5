"""The networks of document 002's weather forecast, with the habits of Keras.

The document prints one of them, a GRU of 32 units that reads ten days of weather and says what the
temperature will be a day later. It stands in a row of six in the book that the document retells
(Chollet 2017, "Deep Learning with Python", section 6.3); all six are here:

| name            | network                                                       | parameters |
|-----------------|---------------------------------------------------------------|------------|
| `dense`         | all numbers side by side, 32 units with ReLU                  | 107,585    |
| `gru`           | GRU 32                                                        | 4,641      |
| `dropout`       | GRU 32, dropout 0.2 on its inputs and on its state            | 4,641      |
| `stacked`       | GRU 32, then GRU 64 with ReLU; dropout 0.1, 0.5 on the states | 23,489     |
| `reversed`      | GRU 32 that reads the days from the last to the first         | 4,641      |
| `bidirectional` | two GRUs 32, one for each direction, side by side             | 9,281      |

Each ends in one linear unit. The counts are those of today's Keras, whose GRU is PyTorch's: the
reset gate acts on the recurrent product, and there are two biases a gate. The book's Keras 2.0 had
one bias a gate (`bias="single"`): 96 numbers less for 32 units, so 4,545.

What Keras decides besides:

- Kernels start Glorot uniform, with one limit for the three gates together, `sqrt(6 / (in + 3 H))`;
  recurrent kernels orthogonal over the three gates together; biases at zero.
- Dropout masks are drawn once a sequence and stay the same at all its steps (Gal and Ghahramani
  2016), for the inputs as well as for the state that enters the recurrent product. Keras draws a
  mask for each of the three gates; here the three share one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import microtensor as mt
from microtensor import nn
from microtensor.recurrence import cell


@cell(gates=("r", "z", "n"), apart=("n",), state=("h",))
def relu_gru(r: Any, z: Any, n_x: Any, n_h: Any, h: Any) -> Any:
    """The GRU with a ReLU where it has its tanh (Keras' `activation="relu"`).

    h' = (1 - sigma(z)) max(n_x + sigma(r) n_h, 0) + sigma(z) h
    """
    z = mt.sigmoid(z)
    return (1 - z) * mt.relu(n_x + mt.sigmoid(r) * n_h) + z * h


def keras_start(module: nn.Module, generator: mt.Generator) -> None:
    """Draw all parameters as Keras does: Glorot uniform, orthogonal (recurrent), zero (biases)."""
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            nn.init.zeros_(parameter)
        elif "weight_hh" in name:
            nn.init.orthogonal_(parameter, generator=generator)
        else:
            nn.init.xavier_uniform_(parameter, generator=generator)


class DenseForecaster(nn.Module):
    """One hidden layer that sees all numbers at once, and no order among them.

    Parameters
    ----------
    steps, features
        T and F of the input.
    hidden_size
        Units of the hidden layer.
    generator
        Where the weights are drawn from.
    """

    knows_trials = True

    def __init__(
        self, steps: int, features: int, hidden_size: int = 32, *, generator: mt.Generator
    ) -> None:
        self.hidden = nn.Linear(steps * features, hidden_size, generator=generator)
        self.readout = nn.Linear(hidden_size, 1, generator=generator)
        keras_start(self, generator)

    def forward(self, x: mt.Tensor) -> mt.Tensor:
        """Map (B, T, F) to one forecast a sequence, (B,)."""
        flat = mt.reshape(x, (*x.shape[:-2], -1))
        return mt.squeeze(self.readout(mt.relu(self.hidden(flat))), -1)


class RecurrentForecaster(nn.Module):
    """GRUs on top of each other; the forecast is read from the state in which the last one ends.

    Parameters
    ----------
    features
        F of the input.
    sizes
        Units of each GRU.
    relu
        For each GRU whether its candidate is a ReLU and not a tanh; False stands for all.
    dropout
        Probability of zeroing an input of a GRU, for all steps of a sequence.
    recurrent_dropout
        Probability of zeroing a unit of the state where it enters the recurrent product, likewise.
    from_the_end
        Whether to read the sequences from their last step to their first.
    bidirectional
        Whether each GRU reads in both directions, with weights for each.
    generator
        Where the weights, and then the masks, are drawn from.
    """

    knows_trials = True

    def __init__(
        self,
        features: int,
        sizes: Sequence[int] = (32,),
        *,
        relu: Sequence[bool] = (),
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        from_the_end: bool = False,
        bidirectional: bool = False,
        generator: mt.Generator,
    ) -> None:
        self.dropout = dropout
        self.from_the_end = from_the_end
        self.generator = generator
        options: dict[str, Any] = {
            "batch_first": True,
            "bidirectional": bidirectional,
            "recurrent_dropout": recurrent_dropout,
            "generator": generator,
        }
        self.layers = nn.ModuleList()
        inputs = features
        for size, rectified in zip(sizes, relu or [False] * len(sizes), strict=True):
            layer: nn.Module
            if rectified:
                layer = nn.Recurrent(relu_gru, inputs, size, **options)
            else:
                layer = nn.GRU(inputs, size, **options)
            self.layers.append(layer)
            inputs = 2 * size if bidirectional else size
        self.readout = nn.Linear(inputs, 1, generator=generator)
        keras_start(self, generator)

    def forward(self, x: mt.Tensor) -> mt.Tensor:
        """Map (B, T, F) to one forecast a sequence, (B,)."""
        if self.from_the_end:
            x = mt.flip(x, axis=-2)
        for layer in self.layers:
            x, state = layer(self._with_dropout(x))
        # (D, B, H): of each direction the state after its own last step, side by side.
        return mt.squeeze(self.readout(mt.concatenate(mt.unstack(state, axis=-3), axis=-1)), -1)

    def _with_dropout(self, x: mt.Tensor) -> mt.Tensor:
        if not (self.training and self.dropout):
            return x
        ones = mt.ones((*x.shape[:-2], 1, x.shape[-1]), dtype=x.dtype)
        return x * nn.functional.dropout(ones, self.dropout, True, self.generator)


BUILDERS: dict[str, Callable[[int, int, mt.Generator], nn.Module]] = {
    "dense": lambda steps, features, g: DenseForecaster(steps, features, generator=g),
    "gru": lambda steps, features, g: RecurrentForecaster(features, generator=g),
    "dropout": lambda steps, features, g: RecurrentForecaster(
        features, dropout=0.2, recurrent_dropout=0.2, generator=g
    ),
    "stacked": lambda steps, features, g: RecurrentForecaster(
        features,
        (32, 64),
        relu=(False, True),
        dropout=0.1,
        recurrent_dropout=0.5,
        generator=g,
    ),
    "reversed": lambda steps, features, g: RecurrentForecaster(
        features, from_the_end=True, generator=g
    ),
    "bidirectional": lambda steps, features, g: RecurrentForecaster(
        features, bidirectional=True, generator=g
    ),
}
"""Each network by its name: from the steps T and features F of its input, and a generator."""
