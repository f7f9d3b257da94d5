"""The backends that tests run on: NumPy, the cage, and CuPy where there is a card.

    def test_something(backend):
        x = backend.tensor([1.0, 2.0], requires_grad=True)
        with backend.device_only():
            y = (x * x).sum()
            y.backward()
        assert backend.host(x.grad).tolist() == [2.0, 4.0]

The fixture throws no switch: a test says itself where its tensors live, so it may be used together
with Hypothesis and beside tests that know of one backend only. Folders whose tests use it import
it in their conftest.py.
"""

import contextlib

import cage
import numpy as np
import pytest

import microtensor as mt
from microtensor import backend as backends

cage.register()


class Place:
    """One backend, with what a test needs of it."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return self.name

    def __call__(self):
        """`with backend():` new tensors are made here."""
        return mt.use_backend(self.name)

    def array(self, host):
        """A bare array of this backend with the numbers, and on NumPy the strides, of `host`."""
        host = np.asarray(host)
        if self.name == "cage":
            return cage.Caged(host)
        return backends.get(self.name).from_host(host)

    def tensor(self, host, dtype=None, requires_grad=False):
        """A leaf here."""
        host = np.asarray(host)
        if dtype is not None or host.dtype.kind != "f":
            host = host.astype(dtype or host.dtype)
        return mt.Tensor(self.array(host), requires_grad)

    def host(self, value):
        """The numbers of a tensor or bare array, as a NumPy array."""
        bare = value.data if isinstance(value, mt.Tensor) else value
        found = backends.of(bare)
        assert found is not None
        assert found.name == self.name, f"a result on {found.name} of operands on {self.name}"
        return found.to_host(bare)

    def device_only(self):
        """`with backend.device_only():` a transfer to the host inside the block is an error."""
        if self.name == "cage":
            return cage.device_only()
        if self.name == "cupy":
            import cupyx

            return cupyx.allow_synchronize(False)
        return contextlib.nullcontext()


ALL = ["numpy", "cage"]
if mt.backend_available("cupy"):  # parametrised, not skipped: hundreds of skips would hide others
    ALL.append(pytest.param("cupy", marks=pytest.mark.gpu))


@pytest.fixture(scope="module", params=ALL)
def backend(request):
    """Each backend in turn."""
    return Place(request.param)


@pytest.fixture(scope="module", params=ALL[1:])
def device(request):
    """Each backend that is not NumPy."""
    return Place(request.param)
