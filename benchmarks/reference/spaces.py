"""Why the unadapted features are poor by Euclidean distance, and what to compare instead.

    python benchmarks/reference/spaces.py /tmp/reference/*_cat_*.0.npz

Reads features that ``run.py`` left in its scratch folder and prints a Markdown column a file: what the norm
has to do with the distance, what the components have to do with it, and the AUROC in % (k = 2, Euclidean) of
what is made of the features.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from run import measured, nearest

from anomscan.adapt.whitening import Spectrum
from anomscan.stats.measures import Floats, auroc
from anomscan.types import Features

Read = Callable[[Features], Floats]


def unit(features: Features) -> Features:
    """Scaled to norm 1."""
    scaled: Features = features / np.linalg.norm(features, axis=1, keepdims=True)
    return scaled


def standardised(normals: Features) -> Read:
    """Every component over its standard deviation among the normals."""
    deviation = normals.std(axis=0).clip(1e-4 * normals.std())
    return lambda features: features / deviation


def whitened(normals: Features, power: float) -> Read:
    """Times the shrunk covariance of the normals to minus ``power``, in the normals' own directions."""
    spectrum = Spectrum.of(normals)
    return lambda features: ((features - spectrum.mean) @ spectrum.axes) * spectrum.variances**-power


def row(features: dict[str, Features]) -> dict[str, float]:
    """Everything that is printed of one file."""
    normals, good = features["normals"], features["good"]
    tests = np.concatenate([good, features["bad"]])
    anomalous = np.repeat([False, True], [len(good), len(tests) - len(good)])
    norms, variances = np.linalg.norm(tests, axis=1), np.sort(normals.var(axis=0))[::-1]
    apart = normals - normals.mean(axis=0)
    radial = np.square((apart * unit(normals)).sum(axis=1)).sum() / np.square(apart).sum()

    def by(read: Read) -> float:
        return 100 * auroc(nearest(read(normals), read(tests)), anomalous)

    def by_unit(read: Read) -> float:
        return by(lambda some: read(unit(some)))

    def distances() -> NDArray[np.float64]:
        return np.sqrt(nearest(normals, tests))

    on_unit = {
        "unit, standardised": standardised(unit(normals)),
        "unit, half whitened": whitened(unit(normals), 1 / 4),
        "unit, whitened": whitened(unit(normals), 1 / 2),
    }
    return {
        "norm, spread / mean": float(
            np.linalg.norm(normals, axis=1).std() / np.linalg.norm(normals, axis=1).mean()
        ),
        "AUROC of the norm": 100 * auroc(norms, anomalous),
        "correlation of distance and norm": float(np.corrcoef(distances(), norms)[0, 1]),
        "radial share of the compactness": float(radial),
        "variance of the 10 largest of 1,280 components": float(variances[:10].sum() / variances.sum()),
        "dead components": float((variances < 1e-8).sum()),
        "raw": by(lambda some: some),
        "raw, standardised": by(standardised(normals)),
        "raw, whitened": by(whitened(normals, 1 / 2)),
        "unit": by(unit),
        **{name: by_unit(read) for name, read in on_unit.items()},
        "readout": measured(features, features)["readout"],
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+")
    rows = {}
    for file in parser.parse_args().files:
        with np.load(file) as kept:
            rows[file.name] = row({name: kept[name].astype(np.float32) for name in kept.files})
    print("| | " + " | ".join(name.split("_")[1] for name in rows) + " |")
    print("|---" * (len(rows) + 1) + "|")
    for what in next(iter(rows.values())):
        cells = [
            f"{found[what]:.2f}" if found[what] <= 1 else f"{found[what]:.1f}" for found in rows.values()
        ]
        print(f"| {what} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
