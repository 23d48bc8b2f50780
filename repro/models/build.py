"""From the model section of a configuration to its network."""

from torch import nn

from repro.models.cifar import CifarNet, initialize
from repro.schema import CLASSES, Architecture, Family, ModelConfig, ShortcutOption, StrideIn


def build_model(config: ModelConfig, seed: int = 0, batch_norm_group: int = 0) -> nn.Module:
    """The network of a configuration with its initial values (Sec. 3.4: MSRA), on the CPU, in training mode.

    `batch_norm_group` is the number of images that share batch statistics (0: the whole mini-batch). Under
    `torch.device("meta")` it has shapes only. ConfigError for an ImageNet depth that is not in Table 1.
    """
    model: nn.Module
    if config.architecture is Architecture.cifar:
        model = CifarNet(config, batch_norm_group)
    elif config.family is Family.vgg:
        from repro.models.vgg import Vgg

        model = Vgg(config)
    else:
        from repro.models.imagenet import ImageNetNet

        model = ImageNetNet(config, batch_norm_group)
    if next(model.parameters()).device.type != "meta":
        initialize(model, config, seed)
    return model


def build_imagenet_model(layers: int, family: Family = Family.residual,
                         shortcut_option: ShortcutOption = ShortcutOption.B,
                         stride_in: StrideIn = StrideIn.first_1x1, num_classes: int = CLASSES, seed: int = 0,
                         batch_norm_group: int = 0) -> nn.Module:
    """`build_model` of one of the paper's ImageNet networks.

    A plain network ignores `shortcut_option`, a basic block `stride_in`. ConfigError for a depth not in Table 1.
    """
    from repro.models.imagenet import imagenet_config

    return build_model(imagenet_config(layers, family, shortcut_option, stride_in, num_classes), seed, batch_norm_group)
