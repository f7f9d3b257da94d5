"""What the 1997 paper proves of its cell: the rows hold, and see a cell that is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models import lstm1997
from tasks.error_flow import COUNTS, TASK
from tasks.work import Work


@pytest.mark.parametrize("name", COUNTS)
def test_a_module_has_as_many_weights_as_its_network(name: str) -> None:
    """Counted in the shapes, and in the parameters of the module made of them."""
    count, network = COUNTS[name]
    weights = {n: np.zeros(shape, np.float32) for n, shape in network.shapes.items()}
    module = network.module(weights)
    assert sum(parameter.size for parameter in module.parameters()) == network.count == count


def test_error_vanishes_in_simple_nets_and_not_in_the_cell() -> None:
    """Over 30 steps: 1 in the cell, less than a thousandth in nets of as many units."""
    [trial] = TASK.train(Work(TASK.presets["quick"], trials=(3,)))
    left = {name: float(values[-1]) for name, values in trial.arrays.items()}
    assert left.pop("through the cell, truncated") == 1.0
    assert left.pop("through cell and gates") > 0.5
    assert len(left) == 2
    assert all(0 < value < 1e-3 for value in left.values())


def test_check_fails_on_a_planted_fault(tasks_cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell whose error also goes through the gates is not the paper's."""
    right = lstm1997.declare

    def whole(*given: Any) -> Any:
        return right(*given[:-1], False)

    monkeypatch.setattr(lstm1997, "declare", whole)
    failed = tasks_cli("run error_flow --preset quick --trials 1 --check --no-plots")
    assert failed.code == 1
    assert "MISSED" in failed.stdout + failed.stderr
