from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from anomscan.adapt.onnx_export import FromPixels, L2Normalise, check_parity, write_onnx
from anomscan.adapt.trainables import LastStages
from anomscan.errors import ParityError
from anomscan.network.extractor import IMAGE, Extractor
from tests.adapt.networks import random_backbone
from tests.conftest import draw

PIXELS = np.stack([np.asarray(draw(seed, side=64)) for seed in range(5)])


@pytest.mark.parametrize("name", ["resnet10t", "test_convnext", "test_vit"])
def test_three_families_give_the_same_in_torch_and_onnxruntime(tmp_path: Path, name: str) -> None:
    backbone = random_backbone(name, 64)
    module = FromPixels(backbone.preprocessing, *LastStages().split(backbone), L2Normalise())
    write_onnx(module, tmp_path / "x.onnx", backbone.preprocessing, backbone.info)
    extractor = Extractor(tmp_path / "x.onnx", threads=1)
    check_parity(module, extractor, PIXELS)
    check_parity(module, extractor, PIXELS[:1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.onnx"]
    assert extractor.metadata["backbone"] == name
    assert b".py" not in (tmp_path / "x.onnx").read_bytes()  # no name of a file of this machine
    assert [output.name for output in onnx.load(tmp_path / "x.onnx").graph.output] == [IMAGE]


def test_a_changed_network_does_not_pass(tmp_path: Path) -> None:
    backbone = random_backbone("resnet10t", 64)
    module = FromPixels(backbone.preprocessing, backbone.model, L2Normalise())
    write_onnx(module, tmp_path / "x.onnx", backbone.preprocessing, backbone.info)
    with torch.no_grad():
        filters = next(p for p in backbone.model.parameters() if p.ndim == 4)
        filters.copy_(filters.roll(1, dims=0))
    with pytest.raises(ParityError, match="differs from the trained network"):
        check_parity(module, Extractor(tmp_path / "x.onnx", threads=1), PIXELS)


def test_pixels_are_normalised_inside() -> None:
    module = FromPixels(random_backbone("resnet10t", 64).preprocessing, nn.Identity())
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8).reshape(1, 1, 1, 3)
    assert module(pixels).flatten().tolist() == pytest.approx([-1, 1, -0.6])


def test_activations_are_exported_out_of_place_and_work_in_place_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, activation = random_backbone("resnet10t", 64), nn.ReLU6(inplace=True)
    export, seen = torch.onnx.export, []

    def seeing(*given: object, **further: object) -> object:
        seen.append(activation.inplace)
        return export(*given, **further)

    monkeypatch.setattr(torch.onnx, "export", seeing)
    parts = (nn.Conv2d(3, 4, 3), activation, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    module = FromPixels(backbone.preprocessing, *parts)
    write_onnx(module, tmp_path / "x.onnx", backbone.preprocessing, backbone.info)
    check_parity(module, Extractor(tmp_path / "x.onnx", threads=1), PIXELS)
    assert (seen, activation.inplace) == ([False], True)
