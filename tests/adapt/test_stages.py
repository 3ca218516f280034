from __future__ import annotations

import pytest
import torch
from torch import nn

from anomscan.adapt.stages import cut_for_tail, deep_stages, split, trace
from anomscan.errors import UsageError
from tests.adapt.networks import random_backbone


def test_a_cut_through_a_skip_connection_is_refused() -> None:
    backbone = random_backbone("resnet18", 64)
    with pytest.raises(UsageError, match=r"cannot be cut behind layer2\.0\.conv1"):
        split(backbone.model, "layer2.0.conv1")


@pytest.mark.parametrize(
    ("name", "stages", "middle"),
    [
        ("tf_efficientnet_lite0", ["blocks.3", "blocks.4", "blocks.5", "blocks.6"], 1),
        ("resnet18", ["layer3", "layer4"], 0),
        ("convnext_atto", ["stages.2", "stages.3"], 0),
        ("vit_tiny_patch16_224", ["blocks.9", "blocks.10", "blocks.11"], 2),
    ],
)
def test_the_deep_stages_are_those_of_the_tail(name: str, stages: list[str], middle: int) -> None:
    assert deep_stages(random_backbone(name, 64)) == (stages, middle)


def test_the_two_parts_make_the_whole() -> None:
    model = random_backbone("resnet10t", 64).model
    head, tail = split(model, "layer2")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(tail(head(images)), model(images))


def test_the_tail_begins_at_a_stride_of_sixteen_or_is_a_quarter_of_the_blocks() -> None:
    assert cut_for_tail((("a", 4), ("b", 8), ("c", 8), ("d", 16))) == "c"
    assert cut_for_tail(tuple((f"blocks.{i}", 16) for i in range(12))) == "blocks.8"


def test_what_cannot_be_traced_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images if images.sum() > 0 else -images

    with pytest.raises(UsageError, match="stages of Branching cannot be told apart"):
        trace(Branching())
