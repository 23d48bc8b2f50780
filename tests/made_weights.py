"""Networks and checkpoints in the layouts of others, written here, with values like those of trained networks."""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from repro.runs import Run
from tests.made import run_config, scatter, tiny_config
from tests.made_cli import use_made_data


class Block(nn.Module):
    """A basic block whose shortcut, where it grows, samples every second pixel and has zeros on both sides."""

    def __init__(self, channels, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.zeros = planes // 4 if channels != planes else 0

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + (F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.zeros, self.zeros)) if self.zeros else x))


class AkamasterNet(nn.Module):
    """The 6n+2-layer network under the names of akamaster/pytorch_resnet_cifar10."""

    def __init__(self, blocks):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(Block(channels, planes, stride), *(Block(planes, planes, 1) for _ in range(blocks - 1)))
            for channels, planes, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2)))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        out = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(F.avg_pool2d(out, out.shape[3]).flatten(1))


@torch.no_grad()
def trained_like(model, last, side=32, seed=0, inputs=1):
    """The model in evaluation mode, with values that are nothing special, and logits of a spread of about 2.

    inputs: the standard deviation of the pixels that it gets.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in scatter(model, seed).modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5, generator=generator)
    layer = model.get_submodule(last)
    layer.bias.zero_()
    logits = model.eval()(inputs * torch.randn(16, 3, side, side, generator=generator))
    spread = logits.std(0).mean()
    layer.weight.mul_(2 / spread)
    layer.bias.copy_(-(logits * 2 / spread).mean(0))
    return model


def akamaster_net(blocks=1):
    return trained_like(AkamasterNet(blocks), "linear")


def checkpoint(path: Path, state) -> Path:
    """A file as akamaster's trainer writes it, of a network inside of DataParallel."""
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    return path


def train_tiny(monkeypatch, *overrides) -> Run:
    """A finished run of 8 layers and 4 updates on made-up data, which takes the place of CIFAR-10."""
    use_made_data(monkeypatch.setattr)
    return run_config(tiny_config("train.iterations=4", "train.lr_drops=[]", "evaluation.interval=4",
                                  "evaluation.batch_norm_images=0", *overrides))
