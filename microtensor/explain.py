"""`explain`: the backward pass of a result, printed as it happens.

Each node in the order of its turn, with the line that called it; the cotangent that had arrived by
then; for each argument the rule, the contribution it gave (before and after broadcasting is undone)
and the running sum at the place it went to. So one sees gradients appear, and why a tensor that is
used twice receives two contributions.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import numpy as np

from microtensor import backend, engine, modes
from microtensor.declaration import Node
from microtensor.indexed import IndexedCotangent
from microtensor.tensor import Tensor

_FEW = 8  # arrays of at most so many numbers are shown in full


def explain(
    output: Tensor,
    gradient: Any = None,
    *,
    names: Mapping[str, Any] | None = None,
    file: TextIO | None = None,
) -> None:
    """Print the backward pass of `output`, step by step; no `.grad` and no graph is changed.

    Parameters
    ----------
    output
        A recorded tensor.
    gradient
        The cotangent to start from, of its shape; for a tensor of one element it is 1.
    names
        What to call tensors, `{"x": x}`. Variables of the caller are found without being told, and
        so are the parameters of its modules.
    file
        Where to print; standard output if not given.

    Raises
    ------
    GradientStateError, ValueError
        As `mt.grad`: if `output` was not recorded, or its graph was released, or a cotangent is
        missing.
    """
    caller = sys._getframe(1)
    known = _names({**caller.f_globals, **caller.f_locals, **(names or {})})
    printer = _Printer(known, file or sys.stdout)
    with modes.observing(printer):
        arrivals = engine._start("explain", [output], [gradient], True, False, set(), None)
    printer.result({**arrivals.first, **arrivals.sums})


def _names(variables: Mapping[str, Any]) -> dict[Any, str]:
    """What the caller calls each place: a variable, its element `states[2]`, a parameter."""
    known: dict[Any, str] = {}
    for name, value in variables.items():
        found: list[tuple[str, Any]] = [(name, value)]
        if isinstance(value, (list, tuple)):
            found = [(f"{name}[{i}]", element) for i, element in enumerate(value)]
        elif isinstance(value, dict):
            found = [(f"{name}[{key!r}]", element) for key, element in value.items()]
        elif callable(getattr(value, "named_parameters", None)) and not isinstance(value, type):
            found = [(f"{name}.{path}", tensor) for path, tensor in value.named_parameters()]
        for label, tensor in found:
            if isinstance(tensor, Tensor):
                place = tensor.place or tensor
                if place not in known or label == name:  # a variable of its own says it best
                    known[place] = label
    return known


class _Printer:
    """Watches a backward pass (see `modes.observing`) and writes it down."""

    def __init__(self, names: dict[Any, str], file: TextIO) -> None:
        self.names, self.file = names, file
        self.turns: dict[Node, int] = {}
        self.sums: dict[Any, Any] = {}  # place -> what had arrived there before

    def write(self, text: str = "") -> None:
        print(text.rstrip(), file=self.file)

    def name(self, place: Any) -> str:
        """A variable's name, or what kind of thing it is."""
        if place in self.names:
            return self.names[place]
        if isinstance(place, Tensor):
            return f"leaf {place.shape}"
        node, i = place if isinstance(place, tuple) else (place, None)
        return f"result of {node.name}" if i is None else f"result {i} of {node.name}"

    def visit(self, node: Node, cotangent: Any) -> None:
        self.turns[node] = len(self.turns) + 1
        path, line = node.line
        source = linecache.getline(path, line).strip()
        where = f"{os.path.basename(path)}:{line}"
        self.write(f"{self.turns[node]}. {node.name:<12} {where}  {source}")
        several = isinstance(cotangent, tuple)
        for i, c in enumerate(cotangent if several else (cotangent,)):
            label = f"cotangent {i}" if several else "cotangent"
            self.write(f"     {label}: {'nothing' if c is None else show(c)}")

    def contribution(
        self, node: Node, argument: str, place: Any, raw: Any, c: Any, total: Any
    ) -> None:
        rule = rule_text(node, argument)
        self.write(
            f"     {argument} = {self.name(place)}, by {rule}{_rule_values(node, argument)}:"
        )
        values = c.values if isinstance(c, IndexedCotangent) else c
        text = show(values)
        if isinstance(c, IndexedCotangent):
            text += f" at [{_index_text(c.index)}]"
        elif np.shape(raw) != c.shape:
            text = f"{show(raw)}, summed over the broadcast axes: {text}"
        self.write(f"         contributes {text}")
        before = self.sums.get(place)
        if before is not None:
            self.write(f"         running sum {show(before)} -> {show(total)}")
        self.sums[place] = total.copy()

    def result(self, arrived: dict[Any, Any]) -> None:
        self.write()
        for leaf in sorted(arrived, key=self.name):
            self.write(f"{self.name(leaf)}.grad = {show(arrived[leaf])}")


def show(array: Any) -> str:
    """A small array in full, a large one as its shape and norm."""
    found = backend.of(array)
    host = found.to_host(array) if found is not None else np.asarray(array)
    if host.size <= _FEW:
        text = np.array2string(host, precision=4, suppress_small=True, separator=", ")
        text = " ".join(text.split())
        return text[:-1] if host.ndim == 0 and text.endswith(".") else text
    return f"{host.shape} of norm {float(np.linalg.norm(host)):.4g}"


def rule_text(node: Node, argument: str) -> str:
    """The body of an argument's rule if it is a lambda, else the rule's name."""
    declaration = node.plan.declaration
    rule, _ = declaration.joint or declaration.rules[argument]
    rule = inspect.unwrap(rule)
    name = getattr(rule, "__name__", "a rule").strip("_")
    if name != "<lambda>":
        return f"rule {name}"
    try:
        tree = ast.parse(inspect.getsource(rule).strip())
    except (OSError, SyntaxError):
        return "a rule"
    lambdas = [part for part in ast.walk(tree) if isinstance(part, ast.Lambda)]
    return f"`{ast.unparse(lambdas[0].body)}`" if lambdas else "a rule"


def _rule_values(node: Node, argument: str) -> str:
    """The saved arrays that a rule names, where they are small: " with b = 3"."""
    plan = node.plan
    for _, n, first, pick, name in plan.rules:
        if name == argument and n:
            values = pick(node.saved) if n > 1 else (node.saved[first],)
            _, names = plan.declaration.rules[argument]
            shown = [
                f"{name} = {show(value)}"
                for name, value in zip(names, values, strict=True)
                if backend.of(value) is not None and value.size <= _FEW
            ]
            return f" with {', '.join(shown)}" if shown else ""
    return ""


def _index_text(index: Any) -> str:
    parts = index if isinstance(index, tuple) else (index,)
    texts = []
    for part in parts:
        if isinstance(part, slice):
            ends = ["" if end is None else str(end) for end in (part.start, part.stop)]
            texts.append(":".join(ends) + (f":{part.step}" if part.step is not None else ""))
        elif part is Ellipsis:
            texts.append("...")
        else:
            texts.append(show(part) if hasattr(part, "shape") else str(part))
    return ", ".join(texts)
