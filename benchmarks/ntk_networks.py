"""The three networks of the NTK benchmark as plain functions of a list of arrays, for any JAX; and their parameters.

Each entry of `WORKLOADS`: layers as (kind, shape), the input's shape, and how many inputs.
"""

import numpy as np

RESNET_BLOCKS, RESNET_WIDTH = 3, 16


def _resnet_shapes():
    """Kernels of ResNet-20 in the order of use: stem, then two (or three, with a 1 x 1 on the skip) a block, head."""
    shapes, previous = [(3, 3, 3, RESNET_WIDTH)], RESNET_WIDTH
    for stage in range(3):
        for _ in range(RESNET_BLOCKS):
            channels = RESNET_WIDTH * 2**stage
            shapes += [(3, 3, previous, channels), (3, 3, channels, channels)]
            shapes += [(1, 1, previous, channels)] if previous != channels else []
            previous = channels
    return [*shapes, (previous, 10)]


WORKLOADS = {
    "W1": ([(784, 512), (512, 512), (512, 10)], (784,), 512),
    "W2": ([(5, 5, 1, 6), (5, 5, 6, 16), (256, 120), (120, 84), (84, 10)], (28, 28, 1), 256),
    "W3": (_resnet_shapes(), (32, 32, 3), 64),
}


def make(name, seed=0):
    """`(parameters, inputs)`, float32: He weights and small biases, alternating."""
    shapes, inputs, n = WORKLOADS[name]
    draw = np.random.default_rng(seed)
    parameters = []
    for shape in shapes:
        parameters.append(draw.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1])))
        parameters.append(0.1 * draw.normal(size=shape[-1]))
    return [p.astype(np.float32) for p in parameters], draw.normal(size=(n, *inputs)).astype(np.float32)


def jax_network(name):
    """`f(parameters, inputs)` in JAX."""
    import jax
    import jax.numpy as jnp

    def convolution(x, kernel, bias, stride=1, padding="SAME"):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=numbers) + bias

    def pooled(x):
        return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4

    def perceptron(p, x):
        for k in (0, 2):
            x = jax.nn.relu(x @ p[k] + p[k + 1])
        return x @ p[4] + p[5]

    def lenet(p, x):
        x = pooled(jax.nn.relu(convolution(x, p[0], p[1], padding="VALID")))
        x = pooled(jax.nn.relu(convolution(x, p[2], p[3], padding="VALID"))).reshape(len(x), -1)
        for k in (4, 6):
            x = jax.nn.relu(x @ p[k] + p[k + 1])
        return x @ p[8] + p[9]

    def resnet(p, x):
        p = iter(p)
        pair = lambda: (next(p), next(p))
        x = jax.nn.relu(convolution(x, *pair()))
        for stage in range(3):
            for block in range(RESNET_BLOCKS):
                stride = 2 if stage and not block else 1
                inner = jax.nn.relu(convolution(x, *pair(), stride))
                inner = convolution(inner, *pair())
                x = jax.nn.relu(inner + (x if stride == 1 else convolution(x, *pair(), stride)))
        kernel, bias = pair()
        return jnp.mean(x, axis=(1, 2)) @ kernel + bias

    return {"W1": perceptron, "W2": lenet, "W3": resnet}[name]


def torch_network(name):
    """The same in PyTorch, `f(parameters, one input)`; kernels as (out, in, height, width), images channels first."""
    import torch.nn.functional as F

    def convolution(x, kernel, bias, stride=1, padding=None):
        if padding is None:  # as JAX's SAME pads
            total = max(kernel.shape[-1] - stride, 0) if x.shape[-1] % stride == 0 else kernel.shape[-1] - 1
            x = F.pad(x, (total // 2, total - total // 2) * 2)
        return F.conv2d(x, kernel, bias, stride)

    def perceptron(p, x):
        for k in (0, 2):
            x = F.relu(F.linear(x, p[k], p[k + 1]))
        return F.linear(x, p[4], p[5])

    def lenet(p, x):
        x = F.avg_pool2d(F.relu(convolution(x[None], p[0], p[1], padding=0)), 2)
        x = F.avg_pool2d(F.relu(convolution(x, p[2], p[3], padding=0)), 2).permute(0, 2, 3, 1).reshape(-1)
        for k in (4, 6):
            x = F.relu(F.linear(x, p[k], p[k + 1]))
        return F.linear(x, p[8], p[9])

    def resnet(p, x):
        p = iter(p)
        pair = lambda: (next(p), next(p))
        x = F.relu(convolution(x[None], *pair()))
        for stage in range(3):
            for block in range(RESNET_BLOCKS):
                stride = 2 if stage and not block else 1
                inner = F.relu(convolution(x, *pair(), stride))
                inner = convolution(inner, *pair())
                x = F.relu(inner + (x if stride == 1 else convolution(x, *pair(), stride)))
        return F.linear(x.mean((2, 3))[0], *pair())

    return {"W1": perceptron, "W2": lenet, "W3": resnet}[name]
