from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from anomscan.adapt.readouts import ADAPTED, Head, Readout, RootedBeside, RootedHead, RootedStages, Stages
from anomscan.adapt.stage_readout import StageReadout
from anomscan.adapt.stopping import SideBySide
from anomscan.adapt.whitening import POWER, RootedFeatures
from anomscan.images.decode import Decoded
from tests.adapt.networks import random_backbone
from tests.conftest import draw


def test_the_head_is_the_network_as_it_is_and_looks_at_nothing(tmp_path: Path) -> None:
    backbone = random_backbone("resnet10t", 64)
    never = (Decoded(str(1 / 0), np.empty(0)) for _ in range(1))
    read = Head().read(backbone, [backbone.model], never, tmp_path)
    assert list(read.modules) == [backbone.model]
    assert read.record is None
    assert not Head.normalises


def test_the_stages_are_as_the_normals_say(tmp_path: Path) -> None:
    backbone = random_backbone("resnet10t", 64)
    same = [Decoded(str(i), np.asarray(draw(1, side=64))) for i in range(4)]
    read = Stages().read(backbone, [backbone.model], same, tmp_path)
    (readout,) = read.modules
    assert isinstance(readout, StageReadout)
    assert (read.record, read.settings) == (readout.gate.record(), {})
    features = readout(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(features, functional.normalize(features, dim=1))
    assert Stages.normalises


@pytest.mark.parametrize("readout", [RootedHead(), RootedStages()])
def test_a_rooted_readout_tells_what_shaped_it_and_has_a_plain_one(readout: Readout, tmp_path: Path) -> None:
    backbone = random_backbone("resnet10t", 64)
    images = [Decoded(str(i), np.asarray(draw(i, side=64))) for i in range(6)]
    read = readout.read(backbone, [backbone.model], images, tmp_path)
    assert read.settings["root"] is True
    assert read.settings["whitening"] == POWER
    assert 0 <= read.settings["shrinkage"] <= 1
    assert not readout.normalises
    plain = readout.plain
    assert plain.plain is plain is not readout


def test_the_adapted_head_stands_without_its_root_beside_the_pretrained_one(tmp_path: Path) -> None:
    backbone = random_backbone("resnet10t", 64)
    adapted = random_backbone("resnet10t", 64).model
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    images = [Decoded(str(i), np.asarray(draw(i, side=64))) for i in range(6)]
    network = [SideBySide([backbone.model, adapted])]
    read = RootedStages().adapted.read(backbone, network, images, tmp_path)
    assert read.settings == {**read.settings, "root": True, "whitening": POWER, "weight_of_adapted": ADAPTED}
    assert read.head is not None
    assert read.head.shape == (6, 512)
    *both, halves = read.modules
    assert both == network
    pixels = torch.randn(5, 3, 64, 64)
    with torch.no_grad():
        first, second = network[0](pixels).chunk(2, dim=1)
        found = halves(torch.cat([first, second], dim=1))
        kept = halves.first, halves.second
        torch.testing.assert_close(found, torch.cat([kept[0](first), kept[1](second)], dim=1))
    assert [half.rooted for half in kept if isinstance(half, RootedFeatures)] == [True, False]


def test_what_is_fitted_to_the_normals_has_a_stand_in_that_is_not() -> None:
    for readout in (RootedHead(), RootedBeside(), RootedStages()):
        assert isinstance(readout.unfitted, type(readout))
        assert (readout.power, readout.unfitted.power) == (POWER, 0.0)  # type: ignore[attr-defined]
    head = Head()
    assert head.unfitted is head
