"""Which normals of a model are unlike the others: found when it was built, kept for its user."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import astuple, dataclass
from pathlib import Path

from anomscan.errors import ModelDamaged

SUSPECTS = "suspects"
"""Role of its file."""
MOST_KEPT = 200
"""So many normals are kept, those most unlike the others."""


@dataclass(frozen=True)
class Suspect:
    """A normal among the others.

    ``oddness`` is how far its score lies above the middle of all, in units of the upper spread of all;
    ``p_value`` what ``fit.suspects`` makes of that; ``suspected`` whether it is named to the user;
    ``nearest`` the other normal that is most like it.
    """

    path: str
    oddness: float
    p_value: float
    suspected: bool
    nearest: str


@dataclass(frozen=True)
class Suspects:
    """The normals, the most unlike the others first, and of how many they are the first."""

    ranked: list[Suspect]
    normals: int

    @property
    def suspected(self) -> list[Suspect]:
        """Those that are named to the user."""
        return [suspect for suspect in self.ranked if suspect.suspected]

    def without(self, paths: Collection[str]) -> Suspects:
        """The same, but for some."""
        kept = [suspect for suspect in self.ranked if suspect.path not in paths]
        return Suspects(kept, self.normals)

    def save(self, folder: Path) -> dict[str, Path]:
        """Write the first ``MOST_KEPT`` as JSON in ASCII, so that names of any bytes come back exactly."""
        file = folder / "suspects.json"
        rows = [astuple(suspect) for suspect in self.ranked[:MOST_KEPT]]
        file.write_text(json.dumps({"normals": self.normals, "ranked": rows}, indent=0), encoding="ascii")
        return {SUSPECTS: file}

    @classmethod
    def load(cls, path: Path) -> Suspects:
        """Read them back; raises ModelDamaged."""
        try:
            data = json.loads(path.read_text(encoding="ascii"))
            ranked = [
                Suspect(str(path), float(oddness), float(p_value), bool(suspected), str(nearest))
                for path, oddness, p_value, suspected, nearest in data["ranked"]
            ]
            return cls(ranked, int(data["normals"]))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelDamaged(f"{path.name} does not list normals; index them again") from error
