"""The book's networks in PyTorch: their weights from flax and back, their outputs the same.

PyTorch is not installed with the rest (README, "A second engine"); only this file and `pytorch_step` import it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kdlib.training.networks import LeNet, MobileNet, Network, Perceptron, ResNet, SmallConvolutional, Vgg

try:
    torch: Any = importlib.import_module("torch")
except ImportError as error:
    raise ImportError(f"PyTorch is not installed in this environment: `make torch` installs it ({error})") from None

F: Any = torch.nn.functional


def bfloat16_units() -> list[str] | None:
    """What this processor multiplies bfloat16 numbers with; empty: nothing. None: not known."""
    about = Path("/proc/cpuinfo")
    if not about.exists() or not re.search(r"^(flags|Features)\s*:", text := about.read_text(), re.M):
        return None
    units = ("avx512_bf16", "amx_bf16", "bf16")  # the last is ARM's
    return [unit for unit in units if re.search(rf"\b{unit}\b", text)]


_WITHOUT_UNITS = bfloat16_units() == []


def _layer(operation: Callable[..., Any], x: Any, weight: Any, bias: Any, *options: Any, **named: Any) -> Any:
    """`operation(x, weight, bias, ...)`; under autocast to bfloat16, on a processor without such products, in float32.

    Operands and results are rounded to bfloat16, forwards and backwards, and sums are in float32, as in the processors
    that have these products. PyTorch's own way without them is a tenth as fast and rounds its sums, too.
    """
    if not (_WITHOUT_UNITS and torch.is_autocast_enabled("cpu")):
        return operation(x, weight, bias, *options, **named)
    with torch.autocast("cpu", enabled=False):
        operands = [None if tensor is None else tensor.bfloat16().float() for tensor in (x, weight, bias)]
        return operation(*operands, *options, **named).bfloat16()


class _Convolution(torch.nn.Module):
    """flax's `Conv`: `weight` `(out, in / groups, height, width)`; padded at the far side first, as XLA does."""

    def __init__(self, kernel: np.ndarray, bias: np.ndarray | None):
        super().__init__()
        weight = _tensor(kernel.transpose(3, 2, 0, 1)).contiguous(memory_format=torch.channels_last)
        self.weight = torch.nn.Parameter(weight)
        self.bias = None if bias is None else torch.nn.Parameter(_tensor(bias))

    def forward(self, x: Any, stride: int = 1, padding: str = "SAME") -> Any:
        if stride > 1 and self.weight.shape[2:] == (1, 1):
            # The same, written apart: with few channels, last in memory, PyTorch 2.13's own strided form gives wrong
            # gradients of the weights on a CPU, or does not return.
            x, stride = x[:, :, ::stride, ::stride], 1
        groups = x.shape[1] // self.weight.shape[1]
        around = [0, 0]
        if padding == "SAME":
            missing = [
                max((-(-size // stride) - 1) * stride + filter_size - size, 0)
                for size, filter_size in zip(x.shape[2:], self.weight.shape[2:], strict=True)
            ]
            around = [total // 2 for total in missing]
            if any(total % 2 for total in missing):  # one more row or column at the far side
                (top, left), (height, width) = around, missing
                x, around = F.pad(x, (left, width - left, top, height - top)), [0, 0]
        return _layer(F.conv2d, x, self.weight, self.bias, stride, around, groups=groups)


class _Dense(torch.nn.Module):
    """flax's `Dense`: `weight` `(out, in)`."""

    def __init__(self, kernel: np.ndarray, bias: np.ndarray):
        super().__init__()
        self.weight, self.bias = torch.nn.Parameter(_tensor(kernel.T)), torch.nn.Parameter(_tensor(bias))

    def forward(self, x: Any) -> Any:
        return _layer(F.linear, x, self.weight, self.bias)


class _BatchNorm(torch.nn.Module):
    """flax's `BatchNorm`: the running variance is of the biased variances, where PyTorch's is of the unbiased ones."""

    MOMENTUM, EPSILON = 0.9, 1e-5

    def __init__(self, scale: np.ndarray, bias: np.ndarray, mean: np.ndarray, var: np.ndarray):
        super().__init__()
        self.weight, self.bias = torch.nn.Parameter(_tensor(scale)), torch.nn.Parameter(_tensor(bias))
        self.register_buffer("running_mean", _tensor(mean))
        self.register_buffer("running_var", _tensor(var))

    def forward(self, x: Any) -> Any:
        before, mean, var = self.running_var, self.running_mean.clone(), self.running_var.clone()
        x_normalised = F.batch_norm(
            x, mean, var, self.weight, self.bias, self.training, 1 - self.MOMENTUM, self.EPSILON
        )
        if self.training:
            count, kept = x.numel() // x.shape[1], self.MOMENTUM * before
            self.running_mean, self.running_var = mean, kept + (var - kept) * ((count - 1) / count)
        return x_normalised


class TorchNetwork(torch.nn.Module):
    """A network of `kdlib.training.networks` with its variables, in PyTorch.

    Called with images `(n, height, width, channels)`, as everywhere in `kdlib`, it gives logits `(n, outputs)`; in
    evaluation mode (`.eval()`) with running statistics, in training mode with the batch's, which change them. Layers
    and the names in `state_dict()` are numbered as flax numbers them: "Conv_0.weight", "BatchNorm_0.running_mean".

    Parameters
    ----------
    network
        a perceptron, convolutional network, LeNet, ResNet, VGG or MobileNet of `kdlib.training.networks`.
    variables
        its variables, as from `network.init` or `kdlib.training.read_variables`. They are copied.

    Raises
    ------
    ValueError
        a network that has no form in PyTorch.
    """

    def __init__(self, network: Network, variables: Any):
        super().__init__()
        if type(network) not in _FORWARD:
            raise ValueError(
                f"no PyTorch form of {type(network).__name__}: there is one of "
                f"{', '.join(kind.__name__ for kind in _FORWARD)}"
            )
        self.network = network
        statistics = variables.get("batch_stats", {})
        for name, layer in variables["params"].items():
            layer = {key: np.asarray(value) for key, value in layer.items()}
            if name.startswith("Conv"):
                self.add_module(name, _Convolution(layer["kernel"], layer.get("bias")))
            elif name.startswith("Dense"):
                self.add_module(name, _Dense(layer["kernel"], layer["bias"]))
            else:
                running = {key: np.asarray(value) for key, value in statistics[name].items()}
                self.add_module(name, _BatchNorm(layer["scale"], layer["bias"], running["mean"], running["var"]))

    def forward(self, images: Any) -> Any:
        counts: dict[str, int] = {}

        def layer(kind: str) -> Any:
            number = counts[kind] = counts.get(kind, -1) + 1
            return getattr(self, f"{kind}_{number}")

        return _FORWARD[type(self.network)](self.network, layer, images)

    def variables(self) -> dict[str, Any]:
        """The variables in flax's form: what `network.apply` takes. Float32 arrays, copied."""
        values = {"params": self.like_parameters(lambda parameter: parameter)}
        statistics = {
            name: {"mean": _array(child.running_mean), "var": _array(child.running_var)}
            for name, child in self.named_children()
            if isinstance(child, _BatchNorm)
        }
        return {**values, "batch_stats": statistics} if statistics else values

    def like_parameters(self, value_of: Callable[[Any], Any]) -> dict[str, Any]:
        """`value_of(parameter)`, a tensor of the parameter's shape, for each parameter, in flax's form and names."""
        tree: dict[str, Any] = {}
        for name, child in self.named_children():
            leaves = {key: _array(value_of(parameter)) for key, parameter in child.named_parameters()}
            tree[name] = {_flax_name(child, key): _flax_axes(child, key, leaf) for key, leaf in leaves.items()}
        return tree

    def from_parameters(self, tree: Any) -> dict[Any, Any]:
        """`{parameter: tensor}` of a tree in flax's form: the inverse of `like_parameters`."""
        found = {}
        for name, child in self.named_children():
            for key, parameter in child.named_parameters():
                leaf = np.asarray(tree[name][_flax_name(child, key)])
                if key == "weight" and leaf.ndim > 1:
                    leaf = leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf.T
                found[parameter] = torch.empty_like(parameter).copy_(_tensor(leaf)).detach()
        return found


def _flax_name(child: Any, key: str) -> str:
    if key != "weight":
        return key
    return "scale" if isinstance(child, _BatchNorm) else "kernel"


def _flax_axes(child: Any, key: str, leaf: np.ndarray) -> np.ndarray:
    if key != "weight" or leaf.ndim == 1:
        return leaf
    return np.ascontiguousarray(leaf.transpose(2, 3, 1, 0) if isinstance(child, _Convolution) else leaf.T)


def _tensor(array: Any) -> Any:
    return torch.from_numpy(np.array(array, np.float32))


def _array(tensor: Any) -> np.ndarray:
    return tensor.detach().contiguous().numpy().astype(np.float32, copy=True)


def outputs_of(network: Network, variables: Any, inputs: np.ndarray, block: int = 128) -> np.ndarray:
    """Outputs in evaluation mode, `(n, C)` or `(n,)`, as float64; computed in float32, `block` inputs at a time."""
    module = TorchNetwork(network, variables).eval()
    with torch.no_grad():
        parts = [module(_tensor(inputs[start : start + block])) for start in range(0, len(inputs), block)]
    return torch.cat(parts).numpy().astype(np.float64)


# --- the networks, as in kdlib.training.networks: `layer(kind)` is the next one of its kind ---------------------------


def _channels_first(images: Any) -> Any:
    return images.permute(0, 3, 1, 2)  # in memory the channels stay last, for which convolutions are fastest


def _flat(x: Any) -> Any:
    return x.permute(0, 2, 3, 1).reshape(len(x), -1)


def _convolutional(network: SmallConvolutional, layer: Callable, images: Any) -> Any:
    x = _channels_first(images)
    for _ in network.channels:
        x = F.relu(layer("Conv")(x, stride=2))
    x = F.relu(layer("Dense")(_flat(x)))
    return layer("Dense")(x)


def _perceptron(network: Perceptron, layer: Callable, images: Any) -> Any:
    x = images.reshape(len(images), -1)
    for _ in network.widths:
        x = F.relu(layer("Dense")(x))
    return layer("Dense")(x)


def _lenet(_network: LeNet, layer: Callable, images: Any) -> Any:
    x = _channels_first(images)
    for _ in range(2):
        x = F.avg_pool2d(F.relu(layer("Conv")(x, padding="VALID")), 2)
    x = _flat(x)
    for _ in range(2):
        x = F.relu(layer("Dense")(x))
    return layer("Dense")(x)


def _resnet(network: ResNet, layer: Callable, images: Any) -> Any:
    def convolution(x: Any, stride: int = 1) -> Any:
        x = layer("Conv")(x, stride)
        return layer("BatchNorm")(x) if network.normalised else x

    x = F.relu(convolution(_channels_first(images)))
    for stage in range(3):
        for block in range(network.blocks):
            stride = 2 if stage and not block else 1
            inner = convolution(F.relu(convolution(x, stride)))
            skip = x if x.shape == inner.shape else convolution(x, stride)
            x = F.relu(inner + skip)
    return layer("Dense")(x.mean((2, 3)))


def _vgg(network: Vgg, layer: Callable, images: Any) -> Any:
    x = _channels_first(images)
    for k in range(len(network.channels)):
        x = F.relu(layer("BatchNorm")(layer("Conv")(x)))
        x = F.max_pool2d(x, 2) if k < 4 and min(x.shape[2:]) > 1 else x
    return layer("Dense")(x.mean((2, 3)))


def _mobilenet(network: MobileNet, layer: Callable, images: Any) -> Any:
    def convolution(x: Any, stride: int = 1) -> Any:
        return layer("BatchNorm")(layer("Conv")(x, stride))

    def excited(x: Any) -> Any:
        weight = F.relu(layer("Dense")(x.mean((2, 3))))
        return x * F.hardsigmoid(layer("Dense")(weight))[:, :, None, None]

    x = F.hardswish(convolution(_channels_first(images)))
    for _, _, _, squeeze, swish, stride in network.BLOCKS:
        activation = F.hardswish if swish else F.relu
        inner = activation(convolution(activation(convolution(x)), stride))
        inner = convolution(excited(inner) if squeeze else inner)
        x = x + inner if x.shape == inner.shape else inner
    x = F.hardswish(convolution(x)).mean((2, 3))
    return layer("Dense")(F.hardswish(layer("Dense")(x)))


_FORWARD: dict[type, Callable] = {
    Perceptron: _perceptron,
    SmallConvolutional: _convolutional,
    LeNet: _lenet,
    ResNet: _resnet,
    Vgg: _vgg,
    MobileNet: _mobilenet,
}
