"""A cell by name: the library's, or one from a reader's own file, for experiments with `--cell`.

    --cell gru                         a cell of the library, see `LIBRARY`
    --cell my_cells.py:leaky           one of yours: FILE.py:NAME

NAME is a `recurrence.Cell` (the equations, declared by `@cell`), or a `Module` class with a method
`step(x, state)`, which is built as `NAME(input_size, hidden_size)`, with `generator=` besides if it
takes one. `nn.Recurrent` makes a layer of either.

An experiment calls `check` in the `__post_init__` of its settings, so that whatever is wrong with
the file is said in one line before anything is trained; `build` where it trains, in whichever
process that is; and keeps what the cell raises later in one line by `blaming`.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import inspect
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import microtensor as mt
from microtensor import nn
from microtensor.recurrence import Cell, lstm, peephole_lstm, rnn_relu, rnn_tanh
from models.carry_track import CarryTrack
from tasks.harness import UsageError

__all__ = ["LIBRARY", "REMEMBERS", "blaming", "build", "check", "is_file", "title", "version"]

Maker = Callable[[int, int, mt.Generator | None], nn.Recurrent]


def _of_cell(cell: Cell) -> Maker:
    def make(inputs: int, units: int, generator: mt.Generator | None) -> nn.Recurrent:
        return nn.Recurrent(cell, inputs, units, bias="single", generator=generator)

    return make


def _gru(reset: str) -> Maker:
    def make(inputs: int, units: int, generator: mt.Generator | None) -> nn.Recurrent:
        return nn.GRU(inputs, units, bias="single", reset=reset, generator=generator)

    return make


def _carry_track(gate: Callable[[Any], Any]) -> Maker:
    def make(inputs: int, units: int, generator: mt.Generator | None) -> nn.Recurrent:
        return nn.Recurrent(CarryTrack(inputs, units, gate=gate, generator=generator))

    return make


LIBRARY: dict[str, Maker] = {
    "rnn": _of_cell(rnn_tanh),
    "rnn-relu": _of_cell(rnn_relu),
    "lstm": _of_cell(lstm),
    "gru": _gru("after"),
    "gru-before": _gru("before"),
    "peephole": _of_cell(peephole_lstm),
    "carry-track": _carry_track(mt.tanh),
    "carry-track-gates": _carry_track(mt.sigmoid),
}
"""Name → what makes a layer of it from the sizes I and H. One bias a gate, as TensorFlow counts."""

REMEMBERS = {
    "lstm": "f",
    "peephole": "f",
    "gru": "z",
    "gru-before": "z",
    "carry-track": "f",
    "carry-track-gates": "f",
}
"""The gate that keeps the state when it is open, in those cells of the library that have one.

Of a reader's own `Cell`, a gate called f that has a bias is taken for it.
"""


def is_file(spec: str) -> bool:
    """Whether a cell is one from a file, FILE.py:NAME, and not one of the library."""
    return ".py" in spec or ":" in spec or "/" in spec


def check(spec: str, input_size: int, hidden_size: int) -> None:
    """Refuse a cell that cannot be trained: it is built, run over five steps, and differentiated.

    Raises
    ------
    ValueError
        With one sentence: no such file or name, of a wrong type, it raises, its output has a wrong
        shape or is not finite, no gradient reaches its weights.
    """
    if spec in LIBRARY:
        return
    if not is_file(spec):
        near = difflib.get_close_matches(spec, LIBRARY, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"no cell is called {spec!r}; {hint}the library has {', '.join(LIBRARY)}, and a cell "
            "of your own is FILE.py:NAME"
        )
    try:
        # Step by step: where a gradient is cut, the fused operation gives zeros instead of none.
        with np.errstate(all="ignore"), mt.recurrence.driver("steps"):
            _try(spec, input_size, hidden_size)
    except (ValueError, TypeError) as error:
        if isinstance(error, _Refused):
            raise
        raise _blamed(spec, error) from error
    except Exception as error:
        raise _blamed(spec, error) from error


class _Refused(ValueError):
    """What is wrong with a cell, in a sentence of ours."""


def _try(spec: str, input_size: int, hidden_size: int) -> None:
    steps, batch = 5, 3
    generator = mt.Generator(0)
    layer, width = build(spec, input_size, hidden_size, generator=generator)
    x = mt.tensor(generator.uniform(-1.0, 1.0, (steps, batch, input_size)))
    output, _ = layer(x)
    if output.shape != (steps, batch, width):
        raise _Refused(
            f"{spec}: the output of a step must be (B, H), the same H at every step; over {steps} "
            f"steps of {batch} sequences it came to {tuple(output.shape)}"
        )
    if not np.isfinite(output.detach().numpy()).all():
        raise _Refused(f"{spec}: its output is not finite on the very first {steps} steps")
    parameters = list(layer.parameters())
    if not parameters:
        raise _Refused(f"{spec}: it has no parameters, so nothing of it can be trained")
    if not output.requires_grad:
        raise _Refused(f"{spec}: no gradient reaches its weights (is something detached?)")
    (output * output).sum().backward()
    gradients = [p.grad.numpy() for p in parameters if p.grad is not None]
    if not gradients:
        raise _Refused(f"{spec}: no gradient reaches its weights (is something detached?)")
    if not all(np.isfinite(g).all() for g in gradients):
        raise _Refused(f"{spec}: its gradient is not finite on the very first {steps} steps")


def build(
    spec: str,
    input_size: int,
    hidden_size: int,
    *,
    generator: mt.Generator,
    remember: float = 0.0,
) -> tuple[nn.Recurrent, int]:
    """The layer, time first, and the width of its output.

    Parameters
    ----------
    spec
        A name of `LIBRARY`, or FILE.py:NAME.
    input_size, hidden_size
        Numbers a step of the input, and units.
    generator
        Where the weights are drawn from. (A module that takes no generator draws from the default
        one, which is the trial's own while it trains.)
    remember
        Where the bias of the gate that keeps the state starts (see `REMEMBERS`); 0 leaves it as it
        was drawn.

    Raises
    ------
    ValueError
        The cell cannot be had: see `check`. What the reader's own code raises comes as it is.
    """
    if spec in LIBRARY:
        layer, gate = LIBRARY[spec](input_size, hidden_size, generator), REMEMBERS.get(spec)
    else:
        layer, gate = _readers_layer(spec, input_size, hidden_size, generator)
    if remember and gate:
        _open(layer, gate, remember)
    with mt.no_grad():
        output, _ = layer(mt.zeros((1, 1, input_size)))
    if output.ndim != 3 or output.shape[:2] != (1, 1):
        raise _Refused(
            f"{spec}: the output of a step must be (B, H); for one sequence it was "
            f"{tuple(output.shape[1:])}"
        )
    return layer, int(output.shape[-1])


def _readers_layer(
    spec: str, input_size: int, hidden_size: int, generator: mt.Generator
) -> tuple[nn.Recurrent, str | None]:
    cell = _load(spec)
    if isinstance(cell, Cell):
        gate = "f" if "f" in cell.biased else None
        return _of_cell(cell)(input_size, hidden_size, generator), gate
    options = {"generator": generator} if _takes_generator(cell) else {}
    module = cell(input_size, hidden_size, **options)
    units = getattr(module, "hidden_size", hidden_size)  # it may have made itself wider
    return nn.Recurrent(module, input_size, units), None


def _takes_generator(module: type) -> bool:
    parameters = inspect.signature(module).parameters.values()
    return any(p.name == "generator" or p.kind is p.VAR_KEYWORD for p in parameters)


def _open(layer: nn.Recurrent, gate: str, bias: float) -> None:
    """Start the bias of a gate: one block of H rows of the layer's only bias."""
    module = layer.cell
    gates = module.biased if isinstance(module, Cell) else CarryTrack.GATES
    parameter = layer.bias_ih_l0 if isinstance(module, Cell) else module.bias
    size, position = layer.hidden_size, gates.index(gate)
    with mt.no_grad():
        parameter[position * size : (position + 1) * size] = bias


def title(spec: str) -> str:
    """The cell in words: its name in the library, or its file."""
    return Path(spec.rpartition(":")[0]).name if is_file(spec) else spec


# -- the reader's file -------------------------------------------------------------------------


def version(spec: str) -> str:
    """Twelve digits of the SHA-256 of the cell's file; "" for a cell of the library.

    Trials keep it, so that a table tells of which version of the file each is.
    """
    if not is_file(spec):
        return ""
    path, _ = _parts(spec)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _parts(spec: str) -> tuple[Path, str]:
    file, _, name = spec.rpartition(":")
    if not file.endswith(".py") or not name:
        raise _Refused(f"{spec!r} names no cell of a file; write FILE.py:NAME")
    path = Path(file)
    if not path.is_file():
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise _Refused(f"{spec}: there is no file {file}{where}")
    return path, name


def _load(spec: str) -> Any:
    """The cell or the class that FILE.py:NAME stands for."""
    path, name = _parts(spec)
    module = _import(path)
    held = {n: v for n, v in vars(module).items() if _is_cell(v)}
    if not hasattr(module, name):
        own = [n for n, v in held.items() if getattr(v, "__module__", "") == module.__name__]
        near = f"it has {', '.join(own)}" if own else "and no other cell"
        raise _Refused(f"{spec}: the file has nothing called {name}; {near}")
    if name not in held:
        found = getattr(module, name)
        what = f"a {type(found).__name__}"
        if isinstance(found, nn.Module):
            what = f"a {type(found).__name__} that is built already; name its class"
        elif isinstance(found, type):
            what = "a class that is no Module with a method step(x, state)"
        elif isinstance(found, types.FunctionType):
            what = "a function; declare it by @recurrence.cell(gates=…)"
        raise _Refused(
            f"{spec}: it must be a recurrence.Cell or a Module class with step(x, state), and is "
            f"{what}"
        )
    return held[name]


def _is_cell(value: Any) -> bool:
    if isinstance(value, Cell):
        return True
    is_module = isinstance(value, type) and issubclass(value, nn.Module)
    return is_module and callable(getattr(value, "step", None))


def _import(path: Path) -> types.ModuleType:
    """Run the file as a module, once for each content; it may import its neighbours."""
    source, full = path.read_bytes(), path.resolve()
    name = f"readers_cell_{hashlib.sha256(str(full).encode() + b'?' + source).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = types.ModuleType(name)
    module.__file__ = str(full)
    sys.modules[name] = module  # dataclasses and pickling look a class's module up there
    sys.path.append(str(full.parent))  # last: a neighbour called tasks.py hides nothing of ours
    try:
        exec(compile(source, str(full), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(full.parent))
    return module


@contextlib.contextmanager
def blaming(spec: str) -> Iterator[None]:
    """What the reader's own code raises within the block becomes a `UsageError` of one line."""
    try:
        yield
    except Exception as error:
        if spec in LIBRARY or isinstance(error, UsageError) or _line(spec, error) is None:
            raise
        raise UsageError(str(_blamed(spec, error))) from error


def _blamed(spec: str, error: Exception) -> ValueError:
    line = _line(spec, error)
    where = f", line {line}" if line else ""
    return ValueError(f"{spec}: {type(error).__name__}{where}: {' '.join(str(error).split())}")


def _line(spec: str, error: Exception) -> int | None:
    """Where in the reader's file it happened, or None if not there."""
    full = str(Path(spec.rpartition(":")[0]).resolve())
    if isinstance(error, SyntaxError) and error.filename == full:
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((f.lineno for f in reversed(frames) if f.filename == full), None)
