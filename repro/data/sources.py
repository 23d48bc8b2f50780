"""Where a configured data set comes from. Never imports torch before it must."""

from repro.data import cifar10_files
from repro.data.cifar10_files import Cifar10Arrays
from repro.errors import ConfigError
from repro.paths import data_dir
from repro.schema import IMAGENET, SYNTHETIC, DataConfig


def load_arrays(config: DataConfig) -> Cifar10Arrays:
    """CIFAR-10 from the user's folder, or the synthetic images; DataError (3) if CIFAR-10 is missing or damaged.

    ConfigError for ImageNet, whose images are read from their files one by one.
    """
    if config.name == IMAGENET:
        raise ConfigError(f"data.name={IMAGENET}: its images are not loaded into memory, as CIFAR-10's are")
    if config.name == SYNTHETIC:
        from repro.data import synthetic

        return synthetic.make()
    return cifar10_files.load(data_dir(config.root))
