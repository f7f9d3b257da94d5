"""A table of a model: each layer's output shape and number of parameters."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from microtensor.modes import no_grad
from microtensor.nn.module import Module
from microtensor.nn.parameter import Parameter

__all__ = ["Summary", "SummaryRow", "summary"]


class SummaryRow(NamedTuple):
    """One module of the model.

    Attributes
    ----------
    name
        Dotted path in the model; empty for the model itself.
    kind
        Name of its class.
    depth
        0 for the model, 1 for its children, ...
    output
        Shape of what its last call returned, for several tensors nested as they were:
        `((20, 50, 10), ((1, 50, 10), (1, 50, 10)))`. None if it was not called.
    parameters
        Numbers in its own parameters, without its submodules'; one used twice counts once, in
        the first module that has it.
    """

    name: str
    kind: str
    depth: int
    output: Any
    parameters: int


class Summary(NamedTuple):
    """What `summary` prints: `str(...)` is the table.

    Attributes
    ----------
    rows
        One for each module, parents first.
    parameters, trainable
        How many numbers all parameters have, and those that require a gradient.
    size
        Of the parameters, in bytes.
    trials
        K, if the model is a stack; all numbers are then those of its K trials together.
    """

    rows: tuple[SummaryRow, ...]
    parameters: int
    trainable: int
    size: int
    trials: int | None = None

    def __str__(self) -> str:
        table = [("layer", "output shape", "parameters")]
        for row in self.rows:
            name = row.name.rpartition(".")[2]
            layer = "  " * row.depth + (f"{name} ({row.kind})" if name else row.kind)
            shape = "not called" if row.output is None else _show(row.output)
            table.append((layer, shape, f"{row.parameters:,}" if row.parameters else "-"))
        first, second, third = (max(len(line[i]) for line in table) for i in range(3))
        lines = [f"{a:<{first}}  {b:<{second}}  {c:>{third}}" for a, b, c in table]
        rule = "-" * len(lines[0])
        lines.insert(1, rule)
        total = f"{self.parameters:,} parameters, {self.trainable:,} trainable, {_size(self.size)}"
        if self.trials is not None:
            total += f", for {self.trials} trials together"
        return "\n".join([*lines, rule, total])

    def __repr__(self) -> str:
        return f"Summary(layers={len(self.rows)}, parameters={self.parameters})"


def summary(model: Module, *inputs: Any, **options: Any) -> Summary:
    """Run `model(*inputs, **options)` once and print what came out of every layer.

    The call is made in evaluation mode and without recording, so it draws no random numbers and
    changes nothing. Layers may return tuples, such as (output, (h, c)).

    Returns
    -------
    Summary
        The same as an object.

    Raises
    ------
    TypeError
        If `model` is not a module.
    """
    if not isinstance(model, Module):
        raise TypeError(f"summary needs a Module, not {type(model).__name__}")
    modules = list(model.named_modules())
    outputs: dict[int, Any] = {}
    training = [(module, module.training) for _, module in modules]
    model.eval()
    try:
        for _, module in modules:
            _watch(module, outputs)
        with no_grad():
            model(*inputs, **options)
    finally:
        for module, mode in training:
            vars(module).pop("forward", None)
            module.training = mode
    counted: set[int] = set()
    rows = []
    for name, module in modules:
        depth = name.count(".") + 1 if name else 0
        count = 0
        for value in vars(module).values():
            if isinstance(value, Parameter) and id(value) not in counted:
                counted.add(id(value))
                count += value.size
        output = outputs.get(id(module))
        rows.append(SummaryRow(name, type(module).__name__, depth, output, count))
    parameters = list(model.parameters())
    result = Summary(
        tuple(rows),
        sum(p.size for p in parameters),
        sum(p.size for p in parameters if p.requires_grad),
        sum(p.data.nbytes for p in parameters),
        model.trials,
    )
    sys.stdout.write(f"{result}\n")
    return result


def _watch(module: Module, outputs: dict[int, Any]) -> None:
    """Let an instance attribute hide the class's `forward` for one call and note the shapes."""
    forward = module.forward

    def noting(*args: Any, **options: Any) -> Any:
        result = forward(*args, **options)
        outputs[id(module)] = _shapes(result)
        return result

    vars(module)["forward"] = noting


def _shapes(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple([_shapes(item) for item in value])
    if isinstance(value, dict):
        return tuple([_shapes(item) for item in value.values()])
    return tuple(value.shape) if hasattr(value, "shape") else type(value).__name__


def _show(shape: Any) -> str:
    """(3, 4) as it stands; several shapes separated by commas, inner tuples in brackets."""
    if isinstance(shape, tuple) and any(isinstance(item, tuple | str) for item in shape):
        return ", ".join(
            f"({_show(item)})"
            if isinstance(item, tuple) and any(isinstance(part, tuple | str) for part in item)
            else _show(item)
            for item in shape
        )
    return str(shape)


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
