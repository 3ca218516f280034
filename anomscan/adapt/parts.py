"""What every part of a method says of itself, so that nobody has to ask for its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True)
class FurtherFolder:
    """Images beside the normals, in the folder that ``option`` names.

    A part may do without them unless they are ``required``; with ``classes`` they lie in a subfolder for
    each of two classes or more.
    """

    option: str
    required: bool = True
    classes: bool = False


OUTLIERS = FurtherFolder("outliers")
REFERENCE = FurtherFolder("reference", required=False)
REFERENCE_CLASSES = FurtherFolder("reference", classes=True)


class Part(ABC):
    """One of the parts that make up a method; each is the same object in every run and never changes."""

    needs: FurtherFolder | None = None
    """The further folder of images that it learns from."""

    needs_classifier: bool = False
    """Whether the pretrained weights must come with their classifier."""

    learns: frozenset[str] = frozenset()
    """Names of the arrays that it leaves to the scorer."""

    normalises: bool = False
    """Whether the features that it makes have norm 1, whatever the scorer."""

    @abstractmethod
    def describe(self) -> str:
        """What it is, in a few words."""
