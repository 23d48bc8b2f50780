"""Fully convolutional testing against windows that slide over the last feature map, one by one, in float64."""

import pytest
import torch
from torch import nn

from repro.config import paper_config
from repro.evaluation.fully_convolutional import dense_probabilities
from repro.models.imagenet import ImageNetNet, imagenet_config
from repro.models.vgg import Vgg
from tests.evaluation.made import scattered


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """ResNet-18 of 11 classes in float64, evaluation mode."""
    torch.manual_seed(0)
    return scattered(ImageNetNet(imagenet_config(18, num_classes=11))).double().eval()


def sliding(features: torch.Tensor, head, window: int) -> torch.Tensor:
    """The mean of head's softmax over all window x window parts of one image's feature map (C, h, w)."""
    _, height, width = features.shape
    parts = [features[:, top : top + window, left : left + window]
             for top in range(height - window + 1) for left in range(width - window + 1)]
    return torch.stack([head(part).softmax(0) for part in parts]).mean(0)


@pytest.mark.parametrize(("height", "width", "window"), [(225, 291, 7), (231, 224, 7), (63, 97, 2), (95, 33, 1)])
@torch.no_grad()
def test_a_resnet_equals_sliding_windows_then_fc_and_softmax(resnet, height, width, window):
    images = 60 * torch.randn(1, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = dense_probabilities(resnet, images, window)
    wanted = torch.stack([sliding(features, lambda part: resnet.fc(part.mean((1, 2))), window)
                          for features in resnet.features(images)])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    pooled = resnet(images).softmax(1)  # one average over the whole map, as torchvision's networks do: not the paper's
    assert (found - pooled).abs().max() > 1e-6


@torch.no_grad()
def test_one_crop_is_what_the_network_itself_says(resnet):
    crop = 60 * torch.randn(1, 3, 224, 224, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(dense_probabilities(resnet, crop), resnet(crop).softmax(1), rtol=1e-10, atol=1e-12)


@pytest.fixture(scope="module")
def vgg() -> nn.Module:
    """VGG-16's form in float64 with narrow fully-connected layers and a single convolution for a feature map."""
    torch.manual_seed(0)
    with torch.device("meta"):
        net = Vgg(paper_config("imagenet_vgg16").model)
    kinds = [type(layer).__name__ for layer in net.classifier]
    assert kinds == ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    net.features = nn.Sequential(nn.Conv2d(3, 6, 32, stride=32))
    net.classifier = nn.Sequential(nn.Linear(6 * 49, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 9), nn.ReLU(),
                                   nn.Dropout(), nn.Linear(9, 5))
    return net.double().eval()


@torch.no_grad()
def test_vggs_fully_connected_layers_become_convolutions(vgg):
    images = 3 * torch.randn(2, 3, 260, 331, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    wanted = torch.stack([sliding(features, lambda part: vgg.classifier(part.flatten()), 7)
                          for features in vgg.features(images)])
    torch.testing.assert_close(dense_probabilities(vgg, images), wanted, rtol=1e-10, atol=1e-12)
    crop = images[:, :, :224, :224]
    torch.testing.assert_close(dense_probabilities(vgg, crop), vgg(crop).softmax(1), rtol=1e-10, atol=1e-12)
