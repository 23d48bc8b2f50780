"""Views: ten crops are torchvision's, scales and definitions are the paper's, several sizes pack into one array."""

import numpy as np
import pytest
import torch
from torchvision import transforms

from repro.config import compose
from repro.data.imagenet_files import find
from repro.errors import ConfigError
from repro.evaluation.predictions import ten_crops
from repro.evaluation.views import ViewReader, Views, packed, protocol_of, six_crops, unpacked, views_of
from tests.evaluation.made import make_images


def image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(37, 37), (37, 52), (51, 37), (38, 63), (32, 33), (256, 341)])
@pytest.mark.parametrize("size", [32, 31])
def test_ten_crops_are_torchvisions(height, width, size):
    pixels = image(height, width)
    ours = ten_crops(torch.from_numpy(six_crops(pixels, size)).permute(0, 3, 1, 2)[None])[0]
    theirs = torch.stack(transforms.TenCrop(size)(torch.from_numpy(pixels).permute(2, 0, 1)))
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, theirs.flip(0)), "their order matters"


def test_ten_crops_are_not_just_five_and_their_mirror_images():
    """Where an odd number of columns is left over, the mirror image has its own center."""
    six = torch.from_numpy(six_crops(image(37, 52), 31)).permute(0, 3, 1, 2)[None]
    ten = ten_crops(six)[0]
    assert not torch.equal(ten[9], ten[4].flip(-1))
    assert torch.equal(ten[5], ten[1].flip(-1))


def test_pictures_of_different_sizes_pack_and_unpack():
    pictures = [image(3, 5), image(4, 2), image(1, 1)]
    data = packed(pictures)
    assert (data.dtype, data.ndim) == (np.uint8, 1)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(unpacked(data), pictures, strict=True))


def test_the_papers_lengths():
    data = compose(["experiment=imagenet_optB"]).data
    assert views_of("center", data) == Views("center", (256,), 224)
    assert views_of("ten_crop", data) == Views("ten_crop", (256,), 224)
    assert views_of("multi_scale", data) == Views("multi_scale", (224, 256, 384, 480, 640), 224)


def test_smaller_crops_have_scales_in_proportion():
    data = compose(["experiment=imagenet_optB", "data.crop_size=112", "data.test_shorter_side=128"]).data
    assert views_of("multi_scale", data).shorter_sides == (112, 128, 192, 240, 320)
    assert views_of("center", data).shorter_sides == (128,)


def test_definitions_name_their_lengths():
    data = compose(["experiment=imagenet_optB"]).data
    words = {"center": ["256", "224x224", "center"], "ten_crop": ["256", "224x224", "corners", "flip", "of the 10"],
             "multi_scale": ["224, 256, 384, 480, 640", "fully convolutional", "positions, flips and scales"]}
    for protocol, parts in words.items():
        assert all(part in views_of(protocol, data).definition for part in parts)


def test_a_data_set_has_its_own_protocols():
    imagenet, cifar10 = (compose([f"experiment={name}"]).data for name in ("imagenet_optB", "cifar_resnet20"))
    assert protocol_of(None, imagenet) == "center"
    assert protocol_of("multi_scale", imagenet) == "multi_scale"
    assert protocol_of(None, cifar10) == "single_view"
    with pytest.raises(ConfigError, match="ten_crop"):
        protocol_of("tencrop", imagenet)
    with pytest.raises(ConfigError, match="single_view"):
        protocol_of("center", cifar10)


def test_a_reader_gives_the_views_of_a_file(tmp_path):
    images = find(make_images(tmp_path), wiring_test=True).val
    assert ViewReader(images, Views("center", (37,), 32))(0).shape == (32, 32, 3)
    six = ViewReader(images, Views("ten_crop", (37,), 32))(0)
    assert six.shape == (6, 32, 32, 3)
    scales = unpacked(ViewReader(images, Views("multi_scale", (32, 37, 55), 32))(0))
    assert [min(picture.shape[:2]) for picture in scales] == [32, 37, 55]
    assert scales[1].shape[0] != scales[1].shape[1], "the whole image, not a square of it"
    assert np.array_equal(six[0], scales[1][:32, :32])
