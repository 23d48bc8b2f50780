"""Networks as fully convolutional ones: class probabilities at every position of a whole image (Sec. 3.4, Table 4)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.models.imagenet import ImageNetNet
from repro.models.vgg import MAP, Vgg


def probabilities(logits: Tensor) -> Tensor:
    """Softmax over dimension 1, in fp32 where the logits are of 16 bits."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)


def dense_probabilities(model: nn.Module, images: Tensor, window: int = 7) -> Tensor:
    """(N, 3, H, W) normalized pixels -> (N, K) class probabilities, the mean over all positions.

    `window` is the side of the last feature map of a training crop: 7 for 224 pixels. A ResNet's average over the map
    becomes average pooling of this size with stride 1, its fully-connected layer a 1x1 convolution; of VGG's
    fully-connected layers the first becomes a 7x7 convolution.
    """
    logits = vgg_logits(model, images) if isinstance(model, Vgg) else pooled_logits(model, images, window)
    return probabilities(logits).mean((2, 3))


def pooled_logits(model: nn.Module, images: Tensor, window: int) -> Tensor:
    """(N, K, h, w): the logits of each window of the last feature map of a ResNet or plain network."""
    assert isinstance(model, ImageNetNet)
    pooled = F.avg_pool2d(model.features(images), window, stride=1)
    return F.conv2d(pooled, model.fc.weight[:, :, None, None], model.fc.bias)


def vgg_logits(model: Vgg, images: Tensor) -> Tensor:
    """(N, K, h, w): the logits of each 7x7 window of VGG's last feature map; dropout is off in evaluation mode."""
    out: Tensor = model.features(images)
    side = MAP
    for layer in model.classifier:
        if isinstance(layer, nn.Linear):
            out = F.conv2d(out, layer.weight.reshape(layer.out_features, -1, side, side), layer.bias)
            side = 1
        else:
            out = layer(out)
    return out
