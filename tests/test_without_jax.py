"""Labels, path, complexity, bounds, margin and difficulty work where JAX is not installed."""

import subprocess
import sys

from kdlib.tools.provenance import ROOT

CODE = """
import sys

OTHERS = "jax jaxlib flax optax neural_tangents matplotlib PIL pooch requests tqdm yaml".split()

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in OTHERS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
import numpy as np
from kdlib import bounds, choose, difficulty, labels, margin, path
from kdlib.complexity import adjusted_supervision_complexity, certified_supervision_complexity, data_inefficiency
from kdlib.complexity import supervision_complexity

rng = np.random.default_rng(0)
phi, far, weights = rng.normal(size=(40, 60)), rng.normal(size=(30, 60)), rng.normal(size=60)
gram, y = phi @ phi.T, np.sign(phi @ weights)
students = path.interpolation_path(gram, phi @ weights, far @ phi.T, np.sum(far**2, axis=1))
bound = bounds.power_function_bound(students, far @ weights, weights @ weights, n=[10, 40])
assert (bounds.transfer_risk(students, far @ weights, n=[10, 40]).estimate <= bound.estimate).all()
z = labels.effective_logits(phi @ weights, -y, soft_ratio=0.3, temperature=2.0)
loss = labels.DistillationLoss(0.3, 2.0)
assert np.abs(loss.gradient(z, phi @ weights, -y)).max() < 1e-12
exact = supervision_complexity(gram, y, ridge=0.1)
found = certified_supervision_complexity(lambda v: gram @ v, y, ridge=0.1, progress=False)
assert found.lower <= exact.value <= found.upper and adjusted_supervision_complexity(gram, y) > exact.adjusted
assert data_inefficiency(students.squared_norm[None].repeat(2, axis=0)).estimate.shape == (39,)
assert margin.margin_bound(gram, phi @ weights, y, margins=[1.0], delta=0.05).value > 0
classes = (y > 0).astype(int)
two = np.stack([-phi @ weights, phi @ weights], axis=1)
assert difficulty.difficulty(gram, two, classes).relative < 1
assert choose(gram, {"two": two}, classes).best.error < 0.5
assert not {"jax", "flax", "yaml"} & set(sys.modules)
print("done")
"""


def test_numpy_and_scipy_are_enough():
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert run.returncode == 0 and run.stdout == "done\n", run.stderr
