"""Networks and checkpoints in the layouts of others, written here, with values like those of trained networks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from repro.data.cifar10_files import Cifar10Arrays
from repro.runs import Run
from tests.made import run_config, tiny_config
from tests.made_cli import use_made_data

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    """A basic block whose shortcut, where it grows, samples every second pixel and has zeros on both sides."""

    def __init__(self, channels, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.zeros = (planes - channels) // 2

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + (F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.zeros, self.zeros)) if self.zeros else x))


class AkamasterNet(nn.Module):
    """The 6n+2-layer network under the names of akamaster/pytorch_resnet_cifar10."""

    def __init__(self, blocks, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(Block(channels, planes, stride), *(Block(planes, planes, 1) for _ in range(blocks - 1)))
            for channels, planes, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2)))
        self.linear = nn.Linear(64, classes)

    def forward(self, x):
        out = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(F.avg_pool2d(out, out.shape[3]).flatten(1))


def trained_like(model, last, side=32, seed=0):
    """The model with statistics, scales and biases that are nothing special, and logits of a spread of about 2."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in ((module.weight, 0.5, 1.0), (module.bias, -0.3, 0.5),
                                          (module.running_mean, -0.3, 0.3), (module.running_var, 0.5, 2.0)):
                    tensor.uniform_(low, high, generator=generator)
                module.num_batches_tracked.fill_(78200)
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                if module.bias is not None:
                    module.bias.zero_()
                module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5, generator=generator)
        layer = model.get_submodule(last)
        logits = model.eval()(torch.randn(16, 3, side, side, generator=generator))
        spread = logits.std(0).mean()
        layer.weight.mul_(2 / spread)
        layer.bias.copy_(layer.bias - (logits * 2 / spread).mean(0))
    return model


def akamaster_net(blocks=1, seed=0, classes=10):
    return trained_like(AkamasterNet(blocks, classes), "linear", seed=seed)


def prefixed(state):
    """A state_dict as DataParallel has it."""
    return {f"module.{key}": value for key, value in state.items()}


def checkpoint(path: Path, state, **others) -> Path:
    """A file as akamaster's trainer writes it."""
    torch.save({"state_dict": state, **others}, path)
    return path


def normalized(images):
    """uint8 (N, 3, H, W) as torchvision's ToTensor and Normalize give it."""
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))
    return (torch.as_tensor(images).float() / 255 - mean) / std


def mostly_right(model, arrays: Cifar10Arrays) -> Cifar10Arrays:
    """The arrays with labels of which the network of others gets three of four right."""
    guesses = errors(model, arrays.test_images, arrays.test_labels)[1].numpy()
    labels = np.where(np.arange(len(guesses)) % 4 == 0, arrays.test_labels, guesses)
    return replace(arrays, test_labels=labels)


@torch.no_grad()
def errors(model, images, labels, batch=500):
    """How many of the images a network of others takes for something else, by its own way of feeding it."""
    batches = [normalized(images[begin : begin + batch]) for begin in range(0, len(images), batch)]
    guesses = torch.cat([model.eval()(one).argmax(1) for one in batches])
    return int((guesses != torch.as_tensor(labels)).sum()), guesses


def small_cifar(tests=300, seed=3) -> Cifar10Arrays:
    """Made images of coarse colors in the form of CIFAR-10."""
    generator = np.random.default_rng(seed)

    def make(count):
        coarse = generator.integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)
        return coarse.repeat(8, 2).repeat(8, 3), generator.integers(0, 10, count)

    return Cifar10Arrays(*make(50), *make(tests), "made up")


def train_tiny(monkeypatch, *overrides) -> Run:
    """A finished run of 8 layers and 4 updates on made-up data, which takes the place of CIFAR-10."""
    use_made_data(monkeypatch.setattr)
    return run_config(tiny_config("train.iterations=4", "train.lr_drops=[]", "evaluation.interval=4",
                                  "evaluation.batch_norm_images=0", *overrides))
