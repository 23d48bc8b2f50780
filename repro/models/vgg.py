"""VGG-16 and VGG-19 (Simonyan and Zisserman), which the paper compares with: torchvision's networks, tested only."""

from typing import Any

from torch import Tensor, nn

from repro.schema import ModelConfig

NAMES = {16: "vgg16", 19: "vgg19"}  # torchvision's, without batch normalization
CROP = 224  # pixels; the first fully-connected layer takes the 7x7 map of such an image
MAP = 7


class Vgg(nn.Module):
    """A VGG of `config.depth` layers; its weights have torchvision's names, so that torchvision's files load."""

    def __init__(self, config: ModelConfig):
        from torchvision import models  # here, because it takes a second that no other network needs

        super().__init__()
        assert config.depth is not None
        net: Any = getattr(models, NAMES[config.depth])(num_classes=config.num_classes, init_weights=False)
        self.features: nn.Sequential = net.features
        self.classifier: nn.Sequential = net.classifier

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 224, 224) normalized pixels -> (N, num_classes) logits."""
        out: Tensor = self.classifier(self.features(x).flatten(1))
        return out
