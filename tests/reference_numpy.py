"""The networks of Sec. 4.2 once more, in NumPy and without torch: plain loops over a kernel's places. Float64.

Written from the paper alone, so that it can disagree with `repro.models`; weights come by the names of its state_dict.
"""

from collections.abc import Mapping

import numpy as np

EPS, MOMENTUM = 1e-5, 0.1  # of batch normalization; Choice of the project, the paper is silent


class ReferenceNet:
    """A network of 6n+2 layers. `option`: A, B, C, or None without shortcuts. x is (N, C, H, W) throughout.

    With `training` batch statistics normalize, and `running` collects where the running ones then stand.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], blocks: int, option: str | None, training: bool):
        self.weights, self.blocks, self.option, self.training = weights, blocks, option, training
        self.running: dict[str, np.ndarray] = {}

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(N, 3, 32, 32) -> (N, 10) logits."""
        x = np.maximum(self.layer("conv1", "bn1", x), 0)
        for stage in (1, 2, 3):
            for number in range(self.blocks):
                x = self.block(f"stage{stage}.{number}", x, 2 if stage > 1 and number == 0 else 1)
        return x.mean((2, 3)) @ self.weights["fc.weight"].T + self.weights["fc.bias"]

    def block(self, name: str, x: np.ndarray, stride: int) -> np.ndarray:
        """Fig. 2: two layers and what the shortcut adds, then ReLU."""
        out = np.maximum(self.layer(f"{name}.conv1", f"{name}.bn1", x, stride), 0)
        out = self.layer(f"{name}.conv2", f"{name}.bn2", out)
        if self.option == "C" or (self.option == "B" and stride == 2):
            out = out + self.layer(f"{name}.shortcut.conv", f"{name}.shortcut.bn", x, stride)
        elif self.option is not None:
            out[:, : x.shape[1]] += x[:, :, ::stride, ::stride]  # channels beyond those of x get zeros
        return np.maximum(out, 0)

    def layer(self, conv: str, bn: str, x: np.ndarray, stride: int = 1) -> np.ndarray:
        """A convolution without bias and its batch normalization (Sec. 3.4)."""
        x = convolution(x, self.weights[f"{conv}.weight"], stride)
        mean, variance = (self.weights[f"{bn}.running_{name}"] for name in ("mean", "var"))
        if self.training:
            count, old = x[:, 0].size, (mean, variance)
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
            now = mean, variance * count / (count - 1)  # the running variance is unbiased
            self.running |= {f"{bn}.running_{name}": (1 - MOMENTUM) * old[i] + MOMENTUM * now[i]
                             for i, name in enumerate(("mean", "var"))}
        mean, variance, scale, shift = (values[:, None, None] for values in (
            mean, variance, self.weights[f"{bn}.weight"], self.weights[f"{bn}.bias"]))
        return (x - mean) / np.sqrt(variance + EPS) * scale + shift


def convolution(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """(N, C, H, W) and (O, C, k, k) -> (N, O, H/stride, W/stride), padded with (k - 1)/2 zeros."""
    size = kernel.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), *(((size - 1) // 2,) * 2,) * 2))
    height, width = x.shape[2:]
    return sum(np.einsum("nchw,oc->nohw", padded[:, :, row : row + height : stride, column : column + width : stride],
                         kernel[:, :, row, column], optimize=True) for row in range(size) for column in range(size))
