"""The paper's ImageNet networks (Table 1, Fig. 3, Sec. 3.3), plain and residual, of basic or bottleneck blocks."""

import functools
from dataclasses import replace

from torch import Tensor, nn
from torch.nn import functional as F

from repro.config import paper_config
from repro.models.blocks import BasicBlock, Bottleneck, batch_norm
from repro.models.checkpointing import Stage
from repro.paper import PublishedRow, pick, published_table
from repro.schema import CLASSES, Family, ModelConfig, ShortcutOption, StrideIn

WIDTHS = (64, 128, 256, 512)  # Table 1: channels of the 3x3 convolutions of conv2_x to conv5_x
EXPANSION = {"basic": 1, "bottleneck": 4}  # Table 1: channels of a block's output, in widths


@functools.cache
def architecture(layers: int) -> PublishedRow:
    """The row of Table 1 (kind of block, blocks of conv2_x to conv5_x); a plain network has its ResNet's blocks.

    ConfigError for a depth that is not in the table.
    """
    rows = {str(row.layers): row for row in published_table("table1").rows if row.blocks}
    return pick(str(layers), rows, "depth in Table 1")


class ImageNetNet(nn.Module):
    """7x7 convolution and 3x3 max pooling, 4 stages, global average pooling, fully-connected layer (Table 1).

    The stages are named as in the paper; conv3_1, conv4_1 and conv5_1 are their first blocks, with stride 2. Of the
    configuration `blocks_per_stage` is not used, `depth` is a depth of Table 1.
    """

    def __init__(self, config: ModelConfig, batch_norm_group: int = 0):
        super().__init__()
        assert config.depth is not None
        row = architecture(config.depth)
        channels = [WIDTHS[0], *(width * EXPANSION[str(row.block)] for width in WIDTHS)]
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 7, 2, padding=3, bias=False)
        self.bn1 = batch_norm(WIDTHS[0], config, batch_norm_group)
        self.pool = nn.MaxPool2d(3, 2, padding=1)  # Choice: the padding, as in fb.resnet.torch; Table 1 gives sizes
        stages = [make_stage(row, number, channels[number : number + 2], config, batch_norm_group)
                  for number in range(4)]
        self.conv2_x, self.conv3_x, self.conv4_x, self.conv5_x = stages
        self.fc = nn.Linear(channels[-1], config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) mean-subtracted pixels, 224x224 in the paper -> (N, num_classes) logits."""
        out: Tensor = self.fc(self.features(x).mean((2, 3)))
        return out

    def features(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) mean-subtracted pixels -> the last feature map (N, C, H/32, W/32), rounded up."""
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        out: Tensor = self.conv5_x(self.conv4_x(self.conv3_x(self.conv2_x(x))))
        return out


def make_stage(row: PublishedRow, number: int, channels: list[int], config: ModelConfig, group: int) -> Stage:
    """Stage `number` (0: conv2_x) from channels[0] to channels[1]; the first block of all but conv2_x has stride 2."""
    blocks: list[nn.Module] = []
    for index in range(row.blocks[number]):
        stride = 2 if number > 0 and index == 0 else 1
        in_channels = channels[0] if index == 0 else channels[1]
        blocks.append(BasicBlock(in_channels, channels[1], stride, config, group) if row.block == "basic"
                      else Bottleneck(in_channels, channels[1], stride, config, group))
    return Stage(*blocks)


def imagenet_config(layers: int, family: Family = Family.residual, shortcut_option: ShortcutOption = ShortcutOption.B,
                    stride_in: StrideIn = StrideIn.first_1x1, num_classes: int = CLASSES) -> ModelConfig:
    """The model section of one of the paper's ImageNet networks. ConfigError for a depth that is not in Table 1."""
    architecture(layers)
    return replace(paper_config("imagenet_optB").model, depth=layers, family=family, shortcut_option=shortcut_option,
                   stride_in=stride_in, num_classes=num_classes)
