from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from anomscan.adapt import beside
from anomscan.adapt.activations import ActivationCache
from anomscan.adapt.beside import Beside
from anomscan.adapt.make import check, make_network
from anomscan.adapt.objectives import Objective
from anomscan.adapt.options import AdaptOptions, BackboneChoice, FocusChoice
from anomscan.adapt.parts import OUTLIERS
from anomscan.adapt.presets import PRESETS, Preset, find_preset
from anomscan.adapt.regularizers import Penalty, Regularizer, trained
from anomscan.adapt.stopping import Stopping, Training, Watch
from anomscan.adapt.trainables import LastStages, LastStagesOfASmallerInput
from anomscan.errors import InputError, UsageError
from anomscan.images.find import Source, find_images
from anomscan.images.tiling import TileChoice
from anomscan.network.extractor import Extractor
from anomscan.network.network import EXTRACTOR, WEIGHTS, Network
from anomscan.scoring.registry import asked_scorer
from anomscan.types import Arrays, Features
from tests.conftest import REPOSITORY, draw, silent

PIXELS = np.stack([np.asarray(draw(seed, side=64)) for seed in range(5)])
Make = Callable[..., Network]


@pytest.fixture(scope="module")
def make(small: BackboneChoice, normal_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Make a network of the small backbone, as the floor above does; the same twice only once."""
    made: dict[object, Network] = {}

    def call(method: str, **given: Any) -> Network:
        options = AdaptOptions(method, small, **given)
        preset = find_preset(method)
        if (preset, options) not in made:
            scorer = asked_scorer(options.scorer, preset.scorer, preset.learns, method)
            check(options)
            scratch = tmp_path_factory.mktemp("scratch")
            sources = find_images(str(normal_folder))
            made[preset, options] = make_network(sources, options, scorer, scratch, silent)
        return made[preset, options]

    return call


class Eager(Beside):
    """Is content with the few, similar normals of these tests."""

    def against(self, *_: object, **__: object) -> None:
        return None


def features(network: Network) -> Features:
    return Extractor(network.files[EXTRACTOR], 1).run(PIXELS).image


def weights(network: Network) -> dict[str, Any]:
    return load_file(network.files[WEIGHTS])


@pytest.mark.parametrize("method", PRESETS)
def test_every_preset_makes_a_network_and_trains_what_it_says(
    make: Make, small: BackboneChoice, others: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    if method == "auto":
        monkeypatch.setitem(PRESETS, method, replace(PRESETS[method], stopping=Eager()))
    preset = PRESETS[method]
    given: dict[str, Any] = {need.option: str(others) for need in preset.needs if need.required}
    if preset.looks == "auto":
        given["focus"] = FocusChoice("image")
    network = make(method, **given, **({"steps": 2} if preset.trains else {}))
    told = network.method
    assert (told.preset, told.steps) == (method, 2 if preset.trains else 0)
    trained = {**vars(preset.optimisation), "steps": 2} if preset.trains else {}
    assert {name: told.settings[name] for name in trained} == trained
    rooted = {"root", "whitening", "shrinkage"} if preset.readout.plain is not preset.readout else set()
    beside = {"weight_of_adapted"} if method == "auto" else set()
    assert told.settings.keys() - trained == rooted | beside
    assert (told.final_loss is None) == (not preset.trains)
    assert network.learnt.keys() == preset.learns
    assert network.backbone.name == "resnet10t"
    assert set(network.files) == {EXTRACTOR, WEIGHTS}
    lengths = np.linalg.norm(features(network), axis=1)
    if preset.scorer == "knn":
        np.testing.assert_allclose(lengths, 1, atol=1e-5)
    start, end = load_file(str(small.weights)), weights(network)
    changed = [key for key in end if key not in start or (end[key] != start[key]).any()]
    assert bool(changed) == preset.trains
    if isinstance(preset.trainable, LastStages | LastStagesOfASmallerInput):
        assert all(key.startswith(("layer3", "layer4")) for key in changed)
    assert not any("running" in key for key in changed), "batch norm keeps the pretrained statistics"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"method": "panda-oe"},
            "panda-oe learns from a further folder of images: name it with --outliers DIR",
        ),
        ({"method": "joint"}, "name it with --reference DIR"),
        ({"method": "joint", "reference": "NORMALS"}, "needs a subfolder of reference images for each"),
        ({"method": "msc", "outliers": "OTHERS"}, "msc does not use --outliers"),
        ({"method": "adib", "reference": "OTHERS", "outliers": "OTHERS"}, "adib does not use --reference"),
        ({"method": "msc", "scorer": "logit"}, "msc does not learn what the scorer logit needs"),
        ({"method": "panda-ses", "scorer": "knn"}, "panda-ses scores sample-wise"),
        ({"method": "none", "scorer": "best"}, "no scorer called 'best'"),
        ({"method": "none", "steps": 5}, "none does not train; leave --steps and --time-budget out"),
        ({"method": "stages", "time_budget": 5}, "stages does not train; leave --steps and --time-budget"),
        ({"method": "stages", "scorer": "mean-euclidean"}, "stages gives normalised features"),
        ({"method": "auto", "scorer": "mean-euclidean"}, "auto gives normalised features"),
        ({"method": "spade", "scorer": "knn"}, "spade has a scorer of its own; leave --scorer out"),
        ({"method": "padim", "steps": 5}, "padim does not train; leave --steps and --time-budget out"),
        (
            {"method": "patchcore", "focus": FocusChoice("both")},
            "patchcore looks at patches in its own way; leave --focus both out",
        ),
        ({"method": "spade", "focus": FocusChoice("image")}, "spade looks at patches in its own way"),
        (
            {"method": "padim", "focus": FocusChoice(budget=50)},
            "padim looks at one size, which --size sets; leave --budget out",
        ),
        (
            {"method": "patchcore", "tiles": TileChoice("2x2")},
            "patchcore looks at whole images; leave --tiles and --defect out",
        ),
        (
            {"method": "padim", "tiles": TileChoice(defect="12px")},
            "padim looks at whole images; leave --tiles and --defect out",
        ),
    ],
)
def test_parts_that_do_not_fit_together(
    make: Make, normal_folder: Path, others: Path, options: dict[str, Any], sentence: str
) -> None:
    folders = {"NORMALS": str(normal_folder), "OTHERS": str(others)}
    named = {name: folders.get(value, value) for name, value in options.items()}
    with pytest.raises(UsageError, match=re.escape(sentence)):
        make(**named)


@pytest.mark.parametrize("looks", [None, "auto", "patch"])
@pytest.mark.parametrize(("method", "length"), [("patchcore", 384), ("spade", 448), ("padim", 100)])
def test_a_paper_s_patches_are_in_the_graph(make: Make, method: str, length: int, looks: str | None) -> None:
    network = make(method, focus=FocusChoice(looks))
    info = network.focus
    assert (info.looks, info.size, info.procedure) == ("patch", 64, method)
    assert info.describe() == f"looks at patches: as {method} does"
    patches = Extractor(network.files[EXTRACTOR], 1).run(PIXELS).patches
    assert patches is not None
    assert patches.shape == (len(PIXELS), 8, 8, length)


def test_the_metric_decides_the_length_of_features(make: Make) -> None:
    scaled, plain = (features(make("none", scorer=scorer)) for scorer in ("knn", "knn-euclidean"))
    lengths = np.linalg.norm(plain, axis=1, keepdims=True)
    assert np.abs(lengths - 1).max() > 0.1
    np.testing.assert_allclose(plain / lengths, scaled, atol=1e-6)


@pytest.mark.parametrize("method", ["none", "stages", "panda-es"])
def test_nothing_readable(small: BackboneChoice, tmp_path: Path, method: str) -> None:
    (tmp_path / "x.png").write_bytes(b"broken")
    scorer = asked_scorer(None, "knn", (), method)
    with pytest.raises(InputError, match=r"none of the (1 )?normal images can be read"):
        make_network([Source(str(tmp_path / "x.png"))], AdaptOptions(method, small), scorer, tmp_path, silent)


@pytest.mark.parametrize(
    ("all_calibrate", "fewest", "why"),
    [
        (True, 0, "all normals calibrate"),
        (False, 21, "20 normals are too few"),
        (False, 20, "the normals look alike (0."),
    ],
)
def test_auto_reads_the_stages_where_something_speaks_against_adapting(
    make: Make, monkeypatch: pytest.MonkeyPatch, all_calibrate: bool, fewest: int, why: str
) -> None:
    monkeypatch.setattr(beside, "FEWEST", fewest)
    monkeypatch.setattr(beside, "DISTINCT", 2.0)
    frozen = make("stages", all_calibrate=all_calibrate)
    auto = make("auto", steps=10 + fewest, all_calibrate=all_calibrate)
    assert auto.method.steps == 0
    assert auto.method.selection is not None
    assert frozen.method.selection is not None
    assert auto.method.selection["reason"].startswith(f"kept the unadapted features: {why}")
    assert auto.method.selection["readout"] == frozen.method.selection["readout"]
    np.testing.assert_array_equal(features(auto), features(frozen))


@pytest.mark.parametrize("scorer", [None, "knn"])
def test_auto_puts_the_pretrained_head_beside_the_adapted_one(
    make: Make, monkeypatch: pytest.MonkeyPatch, scorer: str | None
) -> None:
    monkeypatch.setattr(beside, "FEWEST", 20)
    monkeypatch.setattr(beside, "DISTINCT", 0.0)
    monkeypatch.setattr(beside, "FALLS", 0.0)
    auto = make("auto", steps=3, scorer=scorer, focus=FocusChoice("image"))
    assert auto.method.steps == 3
    assert auto.method.selection is not None
    assert auto.method.selection["chosen_step"] == 3
    assert [checkpoint["step"] for checkpoint in auto.method.selection["curve"]] == [0, 1, 2, 3]
    found = features(auto)
    assert found.shape == (len(PIXELS), 2 * 512)
    if scorer:
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        plain = features(make("none", scorer="knn"))
        np.testing.assert_allclose(2**0.5 * found[:, :512], plain, atol=1e-5)
        assert np.abs(2**0.5 * found[:, 512:] - plain).max() > 1e-6


class Counting(Stopping):
    """Sees how many normals are learnt from."""

    def __init__(self) -> None:
        self.seen = 0

    def describe(self) -> str:
        return "counting"

    def watch(self, training: Training) -> Watch:
        self.seen = len(training.normals)
        return Watch()


@pytest.mark.parametrize(("method", "all_of_them"), [("msc", False), ("panda-es", True)])
def test_views_are_made_of_no_more_normals_than_the_steps_see(
    make: Make, normal_folder: Path, monkeypatch: pytest.MonkeyPatch, method: str, all_of_them: bool
) -> None:
    counting, preset = Counting(), PRESETS[method]
    small = replace(preset.optimisation, batch=3)
    monkeypatch.setitem(PRESETS, method, replace(preset, optimisation=small, stopping=counting))
    make(method, steps=2)
    there = len(find_images(str(normal_folder)))
    assert there > 6
    assert counting.seen == (there if all_of_them else 6)


def test_consolidation_takes_a_reference_folder(make: Make, others: Path) -> None:
    alone = make("panda-ewc", steps=2)
    referred = make("panda-ewc", steps=2, reference=str(others))
    assert np.abs(features(alone) - features(referred)).max() > 0


class TowardsOutliers(Objective):
    """A new objective: it pulls at one direction, learns its own layer and leaves it to the scorer."""

    needs = OUTLIERS
    learns = frozenset(("direction",))

    def describe(self) -> str:
        return "towards outliers"

    def prepare(self, features: Tensor, classes: int) -> None:
        self.direction = nn.Parameter(torch.ones(features.shape[1]))

    def forward(self, normal: Tensor, other: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        assert other is not None
        loss: Tensor = (normal @ self.direction).square().mean() - (other @ self.direction).mean()
        return loss

    def state(self) -> Arrays:
        return {"direction": self.direction.detach().cpu().numpy()}


@dataclass(frozen=True)
class Stiff(Regularizer):
    """A new regularizer: it allows nothing."""

    strength: float

    def describe(self) -> str:
        return "stiff"

    def hold(
        self, tail: nn.Module, classifier: nn.Module | None, images: ActivationCache, seed: int
    ) -> Penalty:
        parameters = trained(tail)
        return Penalty(parameters, [self.strength] * len(parameters))


@dataclass(frozen=True)
class Second(Stopping):
    """A new stopping rule: it ends after the second step."""

    learns = frozenset(("normals",))

    def describe(self) -> str:
        return "two steps"

    def watch(self, training: Training) -> Watch:
        return Looking(training)


class Looking(Watch):
    def __init__(self, training: Training) -> None:
        self.normals, self.last = training.normals, 0

    def after_step(self, step: int) -> bool:
        self.last = step
        return step < 2

    def state(self) -> Arrays:
        return {"normals": np.array([len(self.normals), self.normals.views], np.float32)}

    def record(self) -> dict[str, Any]:
        return {"reason": f"two steps are enough, and there were {self.last}"}


def test_new_parts_are_a_class_and_a_line_of_a_preset(
    make: Make, others: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimisation = PRESETS["adib"].optimisation
    free = Preset(TowardsOutliers(), optimisation, stopping=Second())
    monkeypatch.setitem(PRESETS, "new", free)
    monkeypatch.setitem(PRESETS, "held", replace(free, regularizer=Stiff(30.0)))
    assert PRESETS["new"].learns == {"direction", "normals"}
    with pytest.raises(UsageError, match="new learns from a further folder of images"):
        make("new")
    start, new, held = make("none"), *(make(name, outliers=str(others)) for name in ("new", "held"))
    assert new.method.steps == 2
    assert new.method.selection == {"reason": "two steps are enough, and there were 2"}
    assert new.learnt["normals"].tolist() == [20, 1]
    assert new.learnt["direction"].shape == (512,)
    moved = [
        sum(float(np.square(value - weights(start)[name]).sum()) for name, value in weights(made).items())
        for made in (new, held)
    ]
    assert 0 < moved[1] < moved[0]


def test_the_options_load_no_heavy_library() -> None:
    heavy = {"torch", "timm", "faiss", "onnxruntime", "PIL"}
    program = f"import sys, anomscan.adapt.options; print({heavy} & set(sys.modules))"
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, check=True, text=True
    )
    assert printed.stdout == "set()\n"


@pytest.mark.parametrize("file", ["extractor.onnx", "extractor.safetensors"])
def test_a_full_disk_is_an_error_of_the_system(
    small: BackboneChoice, normal_folder: Path, tmp_path: Path, file: str
) -> None:
    """Whose sentence is made above; safetensors' own writer raises something else."""
    (tmp_path / file).symlink_to("/dev/full")
    options, info = AdaptOptions("none", small, scorer="knn"), asked_scorer("knn", "knn", (), "none")
    with pytest.raises(OSError, match="No space left"):
        make_network(find_images(str(normal_folder)), options, info, tmp_path, silent)
