"""An 8-bit extractor instead of a float one, where the scores stay what they were."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomscan.errors import Int8Differs, NoImages, UsageError
from anomscan.images.decode import Decoded, decode_all
from anomscan.images.find import Found
from anomscan.images.tiles import one_tile_each
from anomscan.network.extractor import BATCH, Extractor
from anomscan.network.network import EXTRACTOR, Int8Info, Network
from anomscan.network.quantise import quantise
from anomscan.pipeline import available_cores
from anomscan.scoring.bank import Bank
from anomscan.scoring.gallery import Gallery
from anomscan.scoring.patches import PatchGallery, peaks
from anomscan.spread import spread_over
from anomscan.stats.measures import spearman
from anomscan.types import Features, Metric, Outputs, Preprocessing

IMAGES = 400
"""Normals that it is measured on, spread over all."""
CALIBRATING = 100
"""How many of those, spread again, it is calibrated on: more change little and take longer."""
FEWEST = 10
LEAST_SPEARMAN = 0.98
"""Smallest rank correlation with the scores of the float extractor that passes."""


def in_int8(network: Network, normals: list[Found], scratch: Path, metric: Metric, *, force: bool) -> Network:
    """The same network with an 8-bit extractor; raises Int8Differs and NoImages, see ``make_int8``."""
    if network.int8 is not None:
        raise UsageError("the model's extractor has 8 bits already; leave --int8 out")
    out = scratch / "extractor-int8.onnx"
    info = make_int8(network.graph, out, normals, network.preprocessing, metric, force=force)
    return replace(network, files={**network.files, EXTRACTOR: out}, int8=info)


def make_int8(
    graph: Path,
    out: Path,
    normals: list[Found],
    preprocessing: Preprocessing,
    metric: Metric,
    *,
    force: bool,
) -> Int8Info:
    """Write an 8-bit version of ``graph`` to ``out`` and measure what it costs and gains.

    Both extractors score every normal by its k = 2 nearest *other* normals; the ranks are compared. That is
    harder than with anomalies among them, whose scores lie farther apart. Where they give patches, the
    scores by those of the other half of the normals are compared too; the worse correlation counts. Where
    images are looked at in tiles, that is done with one tile of each.

    Args:
        graph: the float extractor.
        out: the file to write.
        normals: images to calibrate and measure with.
        preprocessing: the extractor's.
        metric: of the distances.
        force: write it whatever the correlation.

    Raises:
        Int8Differs: the correlation is below ``LEAST_SPEARMAN``.
        NoImages: fewer than ``FEWEST`` of the normals can be read.
    """
    threads = available_cores()
    some = (normals[i] for i in spread_over(len(normals), IMAGES))
    images = one_tile_each(decode_all(some, preprocessing, threads))
    pixels = [image.pixels for image in images if isinstance(image, Decoded)]
    if len(pixels) < FEWEST:
        raise NoImages(
            f"an 8-bit extractor is calibrated on normal images, and {len(pixels)} that can be read are too "
            f"few; it needs {FEWEST}"
        )
    batches = [np.stack(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)]
    quantise(graph, out, batches[:: max(1, len(pixels) // CALIBRATING)])
    exact, exact_seconds = _timed(Extractor(graph, threads), batches)
    rounded, rounded_seconds = _timed(Extractor(out, threads), batches)
    pairs = list(zip(_scores(exact, metric), _scores(rounded, metric), strict=True))
    info = Int8Info(
        speed=exact_seconds / rounded_seconds,
        spearman=min(spearman(before, after) for before, after in pairs),
        p_value_change=max(float(np.abs(_p_values(a) - _p_values(b)).mean()) for a, b in pairs),
    )
    if info.spearman < LEAST_SPEARMAN and not force:
        raise Int8Differs(
            f"the 8-bit extractor ranks normal images differently (Spearman {info.spearman:.3f}, below "
            f"{LEAST_SPEARMAN}), so it was not written; --force writes it nevertheless"
        )
    return info


def _timed(extractor: Extractor, batches: Iterable[np.ndarray]) -> tuple[Outputs, float]:
    began = time.perf_counter()
    outputs = Outputs.joined(list(extractor.run_all(batches)))
    return outputs, time.perf_counter() - began


def _scores(outputs: Outputs, metric: Metric) -> list[Features]:
    """Of the images, each among the others; of the patches of every second one, among those of the rest."""
    distances, _ = Gallery.build(outputs.image, metric).search(outputs.image, 3)
    scores: list[Features] = [distances[:, 1:].sum(axis=1)]  # the nearest of a normal is itself
    if outputs.patches is not None:
        bank = Bank()
        bank.add(outputs.patches[::2], [""] * len(outputs.patches[::2]))
        gallery, _ = PatchGallery.build(bank, seed=0)
        scores.append(peaks(gallery.maps(outputs.patches[1::2]).distances))
    return scores


def _p_values(scores: Features) -> NDArray[np.float64]:
    """(1 + how many of the others score as high) / n, of each of n normals."""
    lower: NDArray[np.intp] = np.searchsorted(np.sort(scores), scores, side="left")
    return 1 - lower / len(scores)
