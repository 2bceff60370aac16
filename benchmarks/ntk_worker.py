"""One contender of the NTK benchmark in a process of its own: `python ntk_worker.py CONTENDER WORKLOAD OUTPUTS N FILE`.

Compiles and runs once, writes the result to FILE, prints `{"compile": seconds}`; then for each line read runs once
more and prints `{"seconds": ..., "peak": bytes}`, the peak since the process started.
"""

import json
import resource
import sys
import time
import types
from pathlib import Path

import numpy as np
from ntk_networks import jax_network, make, torch_network


def kdlib(name, outputs):
    from kdlib.kernels import empirical_ntk

    network = jax_network(name)
    return lambda p, x: empirical_ntk(network, p, x, outputs=outputs, progress=False)


def neural_tangents(implementation):
    def contender(name, outputs):
        sys.modules["neural_tangents.experimental"] = types.ModuleType("needs TensorFlow")
        import jax
        import neural_tangents

        axes = () if outputs == "full" else (-1,)  # the mean over outputs
        kernel = neural_tangents.empirical_ntk_fn(
            jax_network(name), trace_axes=axes, vmap_axes=0, implementation=implementation
        )
        compiled = jax.jit(lambda x, p: kernel(x, None, p))
        if outputs == "sum":
            return lambda p, x: np.asarray(compiled(x, p)) * 10
        return lambda p, x: np.asarray(compiled(x, p)).transpose(0, 2, 1, 3)

    return contender


def jacobian(name, outputs):
    """Plain JAX: one reverse-mode Jacobian for all inputs, contracted parameter by parameter."""
    import jax
    import jax.numpy as jnp

    network = jax_network(name)
    form = "icp,jdp->icjd" if outputs == "full" else "icp,jcp->ij"

    @jax.jit
    def compiled(p, x):
        rows = jax.vmap(lambda one: jax.jacrev(lambda p: network(p, one[None])[0])(p))(x)
        flat = [leaf.reshape(*leaf.shape[:2], -1) for leaf in rows]
        return sum(jnp.einsum(form, leaf, leaf, precision="highest") for leaf in flat)

    return lambda p, x: np.asarray(compiled(p, x))


def torch_recipe(products):
    """The recipe of PyTorch's documentation: Jacobian contraction, or (`products`) NTK-vector products."""

    def contender(name, outputs):
        import torch
        from torch.func import functional_call, jacrev, jvp, vjp, vmap  # noqa: F401

        network = torch_network(name)
        form = "icp,jdp->icjd" if outputs == "full" else "icp,jcp->ij"

        def moved(p, x):
            p = [torch.tensor(np.ascontiguousarray(a.transpose(3, 2, 0, 1) if a.ndim == 4 else a.T)) for a in p]
            return p, torch.tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x)

        def contraction(p, x):
            rows = vmap(jacrev(lambda p, x: network(p, x)), (None, 0))(tuple(p), x)
            return sum(torch.einsum(form, r.flatten(2), r.flatten(2)) for r in rows)

        def vector_products(p, x):
            p = tuple(p)

            def pair(a, b):
                def column(direction):
                    pulled = vjp(lambda p: network(p, b), p)[1](direction)[0]
                    return jvp(lambda p: network(p, a), (p,), (pulled,))[1]

                return vmap(column)(torch.eye(10)).T

            blocks = vmap(lambda a: vmap(lambda b: pair(a, b))(x), chunk_size=1)(x)
            full = blocks.permute(0, 2, 1, 3)
            return full if outputs == "full" else torch.einsum("icjc->ij", full)

        run = vector_products if products else contraction
        prepared = {}

        def call(p, x):
            if not prepared:
                prepared["p"], prepared["x"] = moved(p, x)
            with torch.no_grad():
                return run(prepared["p"], prepared["x"]).numpy()

        return call

    return contender


CONTENDERS = {
    "kdlib": kdlib,
    "neural-tangents 1": neural_tangents(1),
    "neural-tangents 2": neural_tangents(2),
    "neural-tangents 3": neural_tangents(3),
    "torch.func Jacobian": torch_recipe(False),
    "torch.func products": torch_recipe(True),
    "JAX Jacobian": jacobian,
}


def peak_memory():
    """Bytes, of this process alone; `ru_maxrss` would start from what the parent had at the fork."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except OSError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main():
    contender, workload, outputs, n, file = sys.argv[1:]
    parameters, inputs = make(workload)
    inputs = inputs[: int(n)]
    start = time.perf_counter()
    function = CONTENDERS[contender](workload, outputs)
    result = np.asarray(function(parameters, inputs))
    seconds = time.perf_counter() - start
    np.save(file, result)
    del result
    print(json.dumps({"compile": seconds}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        function(parameters, inputs)
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "peak": peak_memory()}), flush=True)


if __name__ == "__main__":
    main()
