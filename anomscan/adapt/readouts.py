"""Which outputs of a network make up its feature vector."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anomscan.adapt.backbones import Backbone
from anomscan.adapt.parts import Part
from anomscan.adapt.stage_readout import RootedStageReadout, StageReadout, features_of, measure_blocks
from anomscan.adapt.whitening import POWER, RootedFeatures
from anomscan.images.decode import Decoded
from anomscan.images.find import Unreadable
from anomscan.types import Features

ADAPTED = 2.0
"""Weight of the adapted features' squared distances beside the pretrained ones'. See docs/methods.md."""


@dataclass(frozen=True)
class Read:
    """The modules, in a row, from normalised pixels to features.

    For ``model.json``: ``record`` is what the normals chose, ``settings`` what was set. ``head`` are the
    head's features of the normals, where they were looked at.
    """

    modules: Sequence[nn.Module]
    record: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    head: Features | None = None


class Readout(Part):
    """Says which outputs make up the features."""

    @property
    def plain(self) -> Readout:
        """What takes its place where a scorer is asked for that reads features as the papers have them."""
        return self

    @property
    def unfitted(self) -> Readout:
        """What takes its place where all normals calibrate, which nothing may be fitted to then."""
        return self

    @property
    def adapted(self) -> Readout:
        """What takes its place where the network was trained."""
        return self

    @abstractmethod
    def read(
        self,
        backbone: Backbone,
        network: Sequence[nn.Module],
        normals: Iterable[Decoded | Unreadable],
        scratch: Path,
    ) -> Read:
        """Read a network out.

        Args:
            backbone: the network, pretrained or adapted.
            network: the same, as the modules in a row that training made of it.
            normals: the normal images, for a readout that looks at them.
            scratch: a folder for temporary files.

        Raises:
            InputError: no image can be read.
        """


class Head(Readout):
    """The head alone, as in the papers."""

    def describe(self) -> str:
        """In a few words."""
        return "the head's features"

    def read(
        self,
        backbone: Backbone,
        network: Sequence[nn.Module],
        normals: Iterable[Decoded | Unreadable],
        scratch: Path,
    ) -> Read:
        """The network as it is."""
        return Read(network)


class RootedHead(Head):
    """The head's features, rooted and a little whitened; compared by Euclidean distance.

    Args:
        power: of the whitening, see ``RootedFeatures``.
    """

    def __init__(self, power: float = POWER) -> None:
        self.power = power

    @property
    def plain(self) -> Readout:
        """The head as it is."""
        return Head()

    @property
    def unfitted(self) -> Readout:
        """The root alone."""
        return RootedHead(0.0)

    def describe(self) -> str:
        """In a few words."""
        return "the square root of the head's features, a little whitened"

    def read(
        self,
        backbone: Backbone,
        network: Sequence[nn.Module],
        normals: Iterable[Decoded | Unreadable],
        scratch: Path,
    ) -> Read:
        """The network and what the normals make of its features; see ``whitening``."""
        head = features_of(network, backbone, normals, scratch)
        rooted = RootedFeatures(head, power=self.power)
        return Read([*network, rooted], settings=rooted.settings, head=head)


class RootedBeside(RootedHead):
    """The pretrained head as ``RootedHead``, the adapted one beside it likewise, but without the root.

    The loss sees features of norm 1, and what it has learnt is told by these better than by their roots.
    """

    @property
    def unfitted(self) -> Readout:
        """The root of one and the norm of the other alone."""
        return RootedBeside(0.0)

    def describe(self) -> str:
        """In a few words."""
        return "as none, and the adapted head's features, a little whitened"

    def read(
        self,
        backbone: Backbone,
        network: Sequence[nn.Module],
        normals: Iterable[Decoded | Unreadable],
        scratch: Path,
    ) -> Read:
        """``network`` gives the features of both side by side; see ``stopping.SideBySide``."""
        pretrained, adapted = np.split(features_of(network, backbone, normals, scratch), 2, axis=1)
        rooted = RootedFeatures(pretrained, power=self.power)
        whitened = RootedFeatures(adapted, ADAPTED, self.power, root=False)
        settings = {**rooted.settings, "weight_of_adapted": ADAPTED}
        return Read([*network, Halves(rooted, whitened)], settings=settings, head=pretrained)


class Halves(nn.Module):
    """Two modules, one for each half of the features."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, features: Tensor) -> Tensor:
        """(N, 2 D) to (N, 2 D)."""
        first, second = features.chunk(2, dim=1)
        return torch.cat([self.first(first), self.second(second)], dim=1)


class Stages(Readout):
    """The head beside the deep stages, as far as the normals open the gate."""

    normalises = True

    @property
    def adapted(self) -> Readout:
        """The head: what differs so much that it is adapted to is not aligned either."""
        return Head()

    def describe(self) -> str:
        """In a few words."""
        return "the head's features and, if the normals are alike, those of the deep stages"

    def read(
        self,
        backbone: Backbone,
        network: Sequence[nn.Module],
        normals: Iterable[Decoded | Unreadable],
        scratch: Path,
    ) -> Read:
        """The backbone, whatever stands beside it in ``network``; see ``stage_readout``."""
        measured = measure_blocks(backbone, normals, scratch)
        module = StageReadout(measured.outputs, measured.gate)
        return Read([module], measured.gate.record(), head=measured.blocks[0])


class RootedStages(Readout):
    """The same, each block rooted and a little whitened; compared by Euclidean distance.

    Args:
        power: of the whitening, see ``RootedFeatures``.
    """

    def __init__(self, power: float = POWER) -> None:
        self.power = power

    @property
    def plain(self) -> Readout:
        """The blocks as they are."""
        return Stages()

    @property
    def unfitted(self) -> Readout:
        """The roots alone."""
        return RootedStages(0.0)

    @property
    def adapted(self) -> Readout:
        """The heads of both networks, see ``Stages``."""
        return RootedBeside(self.power)

    def describe(self) -> str:
        """In a few words."""
        return "as stages, the square roots, a little whitened"

    def read(
        self,
        backbone: Backbone,
        network: Sequence[nn.Module],
        normals: Iterable[Decoded | Unreadable],
        scratch: Path,
    ) -> Read:
        """The backbone, whatever stands beside it in ``network``; see ``stage_readout`` and ``whitening``."""
        measured = measure_blocks(backbone, normals, scratch)
        module = RootedStageReadout(measured.outputs, measured.gate, measured.blocks, self.power)
        return Read([module], measured.gate.record(), module.settings, measured.blocks[0])
