"""PyTorch's side of `training_peers.py`: reads `NETWORK STEPS BATCH`, trains that many steps, prints the seconds.

A plain loop as one finds it in tutorials: the data on the device, SGD with Nesterov momentum and weight decay, float32.
The networks are those of `kdlib.training.networks` of the same names.
"""

import sys
import time

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, channels_in, channels, stride):
        super().__init__()
        self.first, self.second = (
            nn.Sequential(nn.Conv2d(a, channels, 3, s, 1, bias=False), nn.BatchNorm2d(channels))
            for a, s in ((channels_in, stride), (channels, 1))
        )
        self.skip = nn.Sequential()
        if stride != 1 or channels_in != channels:
            self.skip = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x):
        return functional.relu(self.second(functional.relu(self.first(x))) + self.skip(x))


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(dim=(2, 3))


def residual(blocks, width=16):
    layers, channels = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()], width
    for stage in range(3):
        for block in range(blocks):
            layers.append(Block(channels, width * 2**stage, 2 if stage and not block else 1))
            channels = width * 2**stage
    return nn.Sequential(*layers, Mean(), nn.Linear(channels, 10))


def lenet(width):
    layers, channels = [], 3
    for wanted in (6 * width, 16 * width):
        layers += [nn.Conv2d(channels, wanted, 5), nn.ReLU(), nn.AvgPool2d(2)]
        channels = wanted
    layers += [nn.Flatten()]
    units = channels * 25
    for wanted in (120 * width, 84 * width):
        layers += [nn.Linear(units, wanted), nn.ReLU()]
        units = wanted
    return nn.Sequential(*layers, nn.Linear(units, 10))


NETWORKS = {"lenet-5": lambda: lenet(1), "lenet-5x8": lambda: lenet(8), "resnet-8": lambda: residual(1),
"resnet-20": lambda: residual(3)}  # fmt: skip


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(torch.__version__, device, flush=True)
    images, labels = torch.randn(2048, 3, 32, 32, device=device), torch.randint(0, 10, (2048,), device=device)
    made = {}
    for line in sys.stdin:
        name, steps, batch = line.split()
        if name not in made:
            network = NETWORKS[name]().to(device).train()
            made[name] = network, torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=5e-4, nesterov=True)
        network, optimiser = made[name]
        begin = time.perf_counter()
        for _ in range(int(steps)):
            rows = torch.randint(0, len(images), (int(batch),), device=device)
            optimiser.zero_grad(set_to_none=True)
            functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimiser.step()
        if device == "cuda":
            torch.cuda.synchronize()
        print(time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
    main()
