"""The same seed gives the same bytes: in another process, with another order of hashes."""

import os
import subprocess
import sys

PROGRAM = """
import hashlib
import numpy as np
import microtensor as mt
from microtensor import nn, optim

mt.manual_seed(3)
model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.25), nn.LSTM(8, 6))
head = nn.Linear(6, 3)
parameters = [*model.parameters(), *head.parameters()]
adam = optim.Adam(parameters, lr=0.01)
digest = hashlib.sha256()
for _ in range(5):
    adam.zero_grad()
    output, (h, c) = model(mt.randn(7, 2, 5))
    loss = mt.cross_entropy(head(output[-1]), np.array([0, 2])) + mt.mean(h[0, :, 0] * c[0, 0, 1])
    gradients = mt.grad([loss], parameters, create_graph=True)
    penalty = sum((mt.sum(g * g) for g in gradients), mt.tensor(0.0))
    (loss + penalty * 1e-3).backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    adam.step()
    for p in parameters:
        digest.update(p.data.tobytes() + p.grad.data.tobytes())
print(digest.hexdigest())
"""


def run(hash_seed):
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_the_bytes_do_not_depend_on_the_order_of_hashes():
    assert run("1") == run("4711")
