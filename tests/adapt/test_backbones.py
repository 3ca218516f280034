from __future__ import annotations

import pytest
import torch

from anomscan.adapt.backbones import load_backbone
from anomscan.adapt.weights import PACKAGED
from anomscan.errors import UsageError
from tests.adapt.networks import random_backbone


def test_the_default_has_the_packaged_weights() -> None:
    backbone = load_backbone()
    assert backbone.info.weights_sha256 == PACKAGED["tf_efficientnet_lite0"].sha256
    assert backbone.info.dim == 1280
    preprocessing = backbone.preprocessing
    assert (preprocessing.height, preprocessing.width) == (224, 224)
    assert preprocessing.mean == preprocessing.std == (0.5, 0.5, 0.5)
    assert not backbone.model.training
    assert backbone.model(torch.zeros(1, 3, 64, 64)).shape == (1, 1280)


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"'resnet_18'; did you mean"):
        load_backbone("resnet_18")


def test_another_size_is_that_of_the_input() -> None:
    preprocessing = load_backbone(size=96).preprocessing
    assert (preprocessing.height, preprocessing.width) == (96, 96)


@pytest.mark.parametrize(("name", "others"), [("resnet10t", True), ("vit_tiny_patch16_224", False)])
def test_a_network_says_which_sizes_it_takes(name: str, others: bool) -> None:
    backbone = random_backbone(name, 64)
    assert backbone.takes(64, 64)
    assert backbone.takes(96, 96) == others
