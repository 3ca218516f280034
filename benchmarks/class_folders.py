"""Write Fashion-MNIST as folders of PNGs, one a class: ROOT/train/0 ... ROOT/test/9.

The IDX files are those of Debian's package ``dataset-fashion-mnist``:

    apt-get install dataset-fashion-mnist
    python benchmarks/class_folders.py benchmarks/data/fashion-mnist
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

IDX = Path("/usr/share/datasets/fashion-mnist")


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes, in the shape that its header gives."""
    with gzip.open(path) as file:
        data = file.read()
    dimensions = data[3]
    shape = np.frombuffer(data, ">u4", count=dimensions, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape.astype(int))


def main() -> None:
    """Write both splits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="folder to write")
    parser.add_argument("--idx", type=Path, default=IDX, help=f"folder of the IDX files [{IDX}]")
    arguments = parser.parse_args()
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = read_idx(arguments.idx / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(arguments.idx / f"{prefix}-labels-idx1-ubyte.gz")
        for label in np.unique(labels):
            (arguments.root / split / str(label)).mkdir(parents=True, exist_ok=True)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            Image.fromarray(image).save(arguments.root / split / str(label) / f"{i:05}.png")


if __name__ == "__main__":
    main()
