from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from anomscan.adapt.activations import ActivationCache, cache_activations
from anomscan.adapt.backbones import load_backbone
from anomscan.adapt.label_free import PATIENCE, Checkpoint, LabelFree, Selecting, effective_rank, spread
from anomscan.adapt.made_anomalies import KINDS, Maker, batched
from anomscan.adapt.objectives import Compactness
from anomscan.adapt.onnx_export import FromPixels, write_onnx
from anomscan.adapt.stopping import Training
from anomscan.adapt.trainables import LastStages
from anomscan.adapt.trainer import Optimisation, Trainer
from anomscan.images.decode import Decoded
from anomscan.network.extractor import Extractor
from anomscan.scoring.base import knn_score
from anomscan.scoring.gallery import Gallery
from anomscan.stats.measures import auroc
from tests.conftest import draw

START = Checkpoint(0, 10.0, 0.5, {"scar": 80.0, "blur": 90.0}, 70.0)


def test_the_effective_rank_counts_directions() -> None:
    generator = np.random.default_rng(0)
    line = np.outer(generator.normal(size=200), np.ones(10)).astype(np.float32)
    ball = generator.normal(size=(200, 10)).astype(np.float32)
    assert effective_rank(line) == pytest.approx(1, abs=0.01)
    assert effective_rank(ball) == pytest.approx(10, rel=0.05)
    assert effective_rank(np.zeros((5, 3), np.float32)) >= 0


def test_the_spread_is_the_mean_distance_to_the_centre() -> None:
    assert spread(np.array([[0, 0], [6, 8]], np.float32)) == 5


@pytest.mark.parametrize(
    ("change", "beats"),
    [
        ({"made": {"scar": 81.0, "blur": 91.0}}, True),
        ({"made": {"scar": 81.0, "blur": 91.0}, "left_out_cluster": 40.0}, True),  # which does not count
        ({"made": {"scar": 80.2, "blur": 90.2}}, False),  # too little
        ({"made": {"scar": 88.0, "blur": 89.0}}, False),  # one kind loses
    ],
)
def test_a_checkpoint_must_win_by_a_margin_and_lose_nowhere(change: dict[str, object], beats: bool) -> None:
    assert replace(START, step=5, **change).beats(START) == beats  # type: ignore[arg-type]


def test_collapse_is_lost_rank_or_lost_spread() -> None:
    assert not replace(START, effective_rank=8.5, spread=0.3).collapsed(START)
    assert replace(START, effective_rank=7.5).collapsed(START)
    assert replace(START, spread=0.2).collapsed(START)


@dataclass
class Bed:
    """The default backbone's tail, and what its trunk makes of discs, held-out discs and ellipses."""

    tail: nn.Module
    normals: ActivationCache
    held_out: ActivationCache
    anomalous: ActivationCache

    def auroc(self) -> float:
        """How well the tail separates held-out discs from ellipses now, in percent."""
        normals, held_out, anomalous = (
            nn.functional.normalize(torch.cat([self.tail(batch) for batch in cache.images(64)]), dim=1)
            for cache in (self.normals, self.held_out, self.anomalous)
        )
        gallery = Gallery.build(normals.detach().numpy())
        scores = [
            knn_score(gallery.search(features.detach().numpy(), 2)[0]) for features in (held_out, anomalous)
        ]
        return 100 * auroc(np.concatenate(scores), np.repeat([False, True], [len(s) for s in scores]))


def ellipse(seed: int) -> Image.Image:
    """A normal image stretched half as wide again."""
    return draw(seed, side=96).resize((96, 64)).crop((16, 0, 80, 64))


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Bed:
    backbone = load_backbone(size=64)
    trunk, tail = LastStages().split(backbone)
    graph = tmp_path_factory.mktemp("trunk") / "trunk.onnx"
    write_onnx(FromPixels(backbone.preprocessing, trunk), graph, backbone.preprocessing, backbone.info)
    runner = Extractor(graph, threads=1)

    def cached(images: list[Image.Image], *makers: Maker) -> ActivationCache:
        decoded = [Decoded(str(i), np.asarray(image)) for i, image in enumerate(images)]
        views = [batched(maker, i) for i, maker in enumerate(makers)]
        filled = cache_activations(runner, decoded, len(images), views=views, memory=1e9)
        assert filled is not None
        return filled

    return Bed(
        tail,
        cached([draw(seed, side=64) for seed in range(40)]),
        cached([draw(seed, side=64) for seed in range(100, 130)], *KINDS.values()),
        cached([ellipse(seed) for seed in range(200, 230)]),
    )


def train_on(bed: Bed, rate: float, steps: int, watch: Callable[[int], bool]) -> None:
    optimisation = Optimisation(steps, batch=16, rate=rate, momentum=0.9, weight_decay=0.0, clip=None)
    trainer = Trainer(bed.tail, Compactness(), optimisation, bed.normals, 0, torch.device("cpu"))
    trainer.run(lambda step, _: watch(step))


def selecting(bed: Bed, steps: int) -> Selecting:
    watch = LabelFree().watch(Training(bed.tail, steps, bed.normals, bed.held_out, seed=0))
    assert isinstance(watch, Selecting)
    return watch


def test_collapse_is_measured_before_the_auroc_falls_and_the_earlier_model_is_kept(bed: Bed) -> None:
    pretrained = {name: value.clone() for name, value in bed.tail.state_dict().items()}
    stopping = selecting(bed, 30)
    stopping.after_step(0)
    truth, ended = {0: bed.auroc()}, []

    def watch(step: int) -> bool:
        if not ended and not stopping.after_step(step):
            ended.append(step)
        if step % 6 == 0:
            truth[step] = bed.auroc()
        return True  # see what would have come

    train_on(bed, 1.4e-5, 30, watch)
    assert ended, "the collapse was seen"
    assert stopping.curve[-1].collapsed(stopping.curve[0])
    assert truth[ended[0]] > truth[0] - 1, "before the AUROC fell"
    assert min(truth.values()) < truth[0] - 3, "which it did"
    assert stopping.reason() == f"kept the unadapted features: adapting collapsed them by step {ended[0]}"
    kept = stopping.result(bed.tail).state_dict()
    assert all((kept[name] == value).all() for name, value in pretrained.items())
    record = stopping.record()
    assert record["chosen_step"] == 0
    assert [point["step"] for point in record["curve"]] == [0, *ended]


def test_without_a_change_the_unadapted_features_stay(bed: Bed) -> None:
    stopping = selecting(bed, 5)
    stopping.after_step(0)
    train_on(bed, 0.0, 5, stopping.after_step)
    assert stopping.chosen == 0
    assert stopping.reason().startswith("kept the unadapted features: no checkpoint")
    assert len(stopping.curve) == 1 + PATIENCE, "training ended early"
    assert len({point.separation for point in stopping.curve}) == 1
