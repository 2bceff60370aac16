"""Kernels of PyTorch models, as NumPy arrays that `kdlib.choose`, `difficulty` and all bounds take.

`gram` is the empirical neural tangent kernel of a whole model, `gram_from_features` that of a last linear layer alone,
for backbones of any library. JAX is not needed. (Networks of the book in either framework: `kdlib.training.pytorch`.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tqdm import tqdm

from kdlib.tools.arrays import number, real_array


def gram(
    model: Any, inputs: Any, *, outputs: Callable[[Any], Any] | None = None, memory: float = 1.0, dtype: Any = None,
    progress: bool = True,
) -> np.ndarray:  # fmt: skip
    """The empirical neural tangent kernel `J J^T` of a model at its present parameters.

    Parameters
    ----------
    model
        a `torch.nn.Module`, taken in inference mode and left as it was; the parameters with `requires_grad` count.
    inputs
        a tensor `(n, ...)`, one example a row.
    outputs
        what of the model's answer are the logits `(n, C)` or `(n,)`; the answer itself by default. For Hugging Face:
        `lambda answer: answer.logits`.
    memory
        in GB, for the Jacobians of two blocks of examples.
    dtype
        of the computation, `torch.float32` by default.
    progress
        show a bar.

    Returns
    -------
    float64 `(n, C, n, C)`, or `(n, n)` for outputs `(n,)`; symmetric.

    Raises
    ------
    ValueError, TypeError
        inputs that are none, a model without parameters to differentiate, outputs of another shape, a kernel that is
        not finite; memory that does not suffice for one example.
    """
    import torch
    from torch.func import functional_call, jacrev, vmap

    memory, dtype = number("memory", memory, above=0), torch.float32 if dtype is None else dtype
    if not isinstance(inputs, torch.Tensor) or inputs.ndim < 1 or not len(inputs):
        raise TypeError("inputs must be a tensor (n, ...) of one example at least")
    cast = lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor
    trained = {name: cast(value.detach()) for name, value in model.named_parameters() if value.requires_grad}
    fixed = {name: cast(value.detach()) for name, value in (*model.named_parameters(), *model.named_buffers())
             if name not in trained}  # fmt: skip
    if not trained:
        raise ValueError("no parameter of the model has requires_grad: there is nothing to differentiate")
    device = next(iter(trained.values())).device
    inputs = cast(inputs).to(device)

    def answer(parameters: dict, example: Any) -> Any:
        said = functional_call(model, {**parameters, **fixed}, (example[None],))
        said = said if outputs is None else outputs(said)
        if not isinstance(said, torch.Tensor) or said.ndim not in (1, 2) or len(said) != 1:
            shape = tuple(said.shape) if isinstance(said, torch.Tensor) else type(said).__name__
            raise ValueError(f"outputs must be (n, C) or (n,), not {shape} for one example: say which by `outputs`")
        return said[0]

    modes = [(module, module.training) for module in model.modules()]  # a part of it may be frozen
    model.eval()
    try:
        with torch.no_grad():
            shape = tuple(answer(trained, inputs[0]).shape)
        wide = int(np.prod(shape, dtype=int))
        size = sum(value.numel() for value in trained.values())
        bytes_each = wide * size * torch.finfo(dtype).bits // 8
        block = int(memory * 1e9 / (3 * bytes_each))  # two blocks, and what one is put together from
        if block < 1:
            raise ValueError(
                f"the Jacobian of one example has {bytes_each / 1e9:.1f} GB: give `memory` three times that, or use "
                "gram_from_features for the last layer"
            )
        differentiate = vmap(jacrev(answer), in_dims=(None, 0), randomness="error")

        def jacobian(start: int) -> Any:
            found = differentiate(trained, inputs[start : start + block])
            return torch.cat([part.reshape(-1, wide, value.numel()) for part, value in
                              zip(found.values(), trained.values(), strict=True)], dim=2).flatten(0, 1)  # fmt: skip

        n = len(inputs)
        kernel = np.empty((n * wide, n * wide))
        starts = range(0, n, block)
        with tqdm(total=len(starts) * (len(starts) + 1) // 2, desc="kernel", disable=not progress) as bar:
            for start in starts:
                left = jacobian(start)
                for other in range(start, n, block):
                    right = left if other == start else jacobian(other)
                    part = (left @ right.T).double().cpu().numpy()
                    part = (part + part.T) / 2 if other == start else part  # a product is symmetric to rounding only
                    rows, columns = (slice(at * wide, at * wide + side) for at, side in
                                     ((start, part.shape[0]), (other, part.shape[1])))  # fmt: skip
                    kernel[rows, columns] = part
                    kernel[columns, rows] = part.T
                    bar.update()
    finally:
        for module, mode in modes:
            module.training = mode
    if not np.isfinite(kernel).all():
        raise ValueError("the kernel is not finite: the model's parameters or the inputs are not")
    return kernel.reshape((n, *shape, n, *shape))


def gram_from_features(features: Any, *, bias: bool = True) -> np.ndarray:
    """The kernel `(n, n)` of a last linear layer on fixed features: `<phi(x), phi(x')>`, plus one for its bias.

    It is shared by all outputs. `features` `(n, d)`: an array, or a tensor of any device.
    """
    if hasattr(features, "detach"):
        features = features.detach().cpu().double().numpy()
    features = real_array("features", features, ndim=2)
    return features @ features.T + float(bias)
