from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from anomscan.adapt.readouts import Head, Readout, RootedHead, RootedStages, Stages
from anomscan.adapt.stage_readout import StageReadout
from anomscan.adapt.whitening import POWER
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


def test_what_is_fitted_to_the_normals_has_a_stand_in_that_is_not() -> None:
    for readout in (RootedHead(), RootedStages()):
        assert isinstance(readout.unfitted, type(readout))
        assert (readout.power, readout.unfitted.power) == (POWER, 0.0)  # type: ignore[attr-defined]
    head = Head()
    assert head.unfitted is head
