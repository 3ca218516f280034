"""Shared fixtures: drawn images and small models, so that no test needs a network or a GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from anomscan.adapt.options import AdaptOptions, BackboneChoice
from anomscan.fit.adapt import adapt
from anomscan.fit.build import Fitted, build_from
from anomscan.fit.normals import Normals
from anomscan.model.folder import ModelDraft
from anomscan.model.manifest import HoldOut
from anomscan.model.model import Model, read_model
from anomscan.scoring.info import Looks
from anomscan.scoring.registry import make_scorer, parse_scorer
from anomscan.types import Progress
from tests.exports import remembered
from tests.fakes import fake_network

# Under nohup and behind & they are ignored, and then in every process of a test.
for ended_by, handler in ((signal.SIGHUP, lambda *_: None), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(ended_by) is signal.SIG_IGN:
        signal.signal(ended_by, handler)

REPOSITORY = Path(__file__).parent.parent
SIZE = 64


def draw(seed: int, *, side: int = 96) -> Image.Image:
    """A grey disc on a noisy background; the seed moves it."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    cy, cx = side / 2 + generator.normal(0, 4, 2)
    disc = (x - cx) ** 2 + (y - cy) ** 2 < (side / 3) ** 2
    pixels = np.where(disc, 180, 60)[..., None] + generator.normal(0, 8, (side, side, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw_odd(seed: int) -> Image.Image:
    """The same in negative: nothing like the normals, but like each other."""
    return ImageOps.invert(draw(seed))


def draw_plain(seed: int) -> Image.Image:
    """Grey cells that differ from image to image by the same amount everywhere: none stands out."""
    cells = np.random.default_rng(seed).uniform(100, 140, (8, 8, 3))
    return Image.fromarray(cells.astype(np.uint8)).resize((SIZE, SIZE), 0)


def silent(*_: object) -> None:
    """Take progress and say nothing."""


def fake_model(
    normals: Path,
    folder: Path,
    share: float = 0.0,
    *,
    scorer: str = "knn",
    group_by: str = "none",
    steps: int = 0,
    looks: Looks = "image",
    procedure: str | None = None,
) -> Fitted:
    """Make ``folder`` a model of ``normals`` by the fake network; ``share`` of them are held out.

    With ``steps`` the network claims to be trained on those that are not; ``looks`` is at what, at patches by
    a ``procedure`` if there is one.
    """
    with ModelDraft.begin(str(folder)) as draft:
        info = parse_scorer(scorer)
        network = fake_network(draft.scratch, SIZE, normalise=info.metric == "cosine", looks=looks)
        focus = replace(network.focus, procedure=procedure)
        network = replace(network, method=replace(network.method, steps=steps), focus=focus)
        found = Normals.find(str(normals)).split(HoldOut(share, group_by), seed=0)
        preprocessing = replace(network.preprocessing, reading=found.look.reading)
        network = replace(network, preprocessing=preprocessing)
        return build_from(draft, network, make_scorer(info), found, silent)


@pytest.fixture(scope="session")
def normal_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty drawn normal images."""
    folder = tmp_path_factory.mktemp("normal")
    for seed in range(20):
        draw(seed).save(folder / f"{seed:02}.png")
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> BackboneChoice:
    """A small ResNet with random weights, given as a file: it exports in a moment."""
    import safetensors.torch
    import timm
    import torch

    torch.manual_seed(0)
    weights = tmp_path_factory.mktemp("weights") / "resnet10t.safetensors"
    safetensors.torch.save_file(timm.create_model("resnet10t").state_dict(), weights)
    return BackboneChoice("resnet10t", str(weights), SIZE)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, normal_folder: Path) -> Path:
    """A model of the normals by the fake network. Read it, never write it."""
    folder = tmp_path_factory.mktemp("session") / "model"
    fake_model(normal_folder, folder)
    return folder


@pytest.fixture(scope="session")
def calibrated_folder(tmp_path_factory: pytest.TempPathFactory, normal_folder: Path) -> Path:
    """The same, with half of the normals held out: p-values from 1/11 up. Read it, never write it."""
    folder = tmp_path_factory.mktemp("session") / "model"
    fake_model(normal_folder, folder, 0.5)
    return folder


@pytest.fixture(scope="session")
def fake_patch_model(tmp_path_factory: pytest.TempPathFactory, normal_folder: Path) -> Path:
    """The same, that looks at images and at their patches. Read it, never write it."""
    folder = tmp_path_factory.mktemp("session") / "model"
    fake_model(normal_folder, folder, 0.5, looks="both")
    return folder


@pytest.fixture(scope="session")
def model(model_folder: Path) -> Model:
    """That model, loaded."""
    return read_model(str(model_folder), threads=1)


@pytest.fixture(scope="session", autouse=True)
def exported_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Export networks that are alike once, for all processes of a run."""
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "exported"
    shared.mkdir(exist_ok=True)
    with remembered(shared):
        yield


Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run ``anomscan`` as a process of its own in an empty folder, and return what it printed."""

    def call(
        *arguments: str | bytes | Path, stdin: bytes = b"", cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ANOMSCAN")}
        kept.pop("PYTHONUNBUFFERED", None)  # it hides a missing flush
        return subprocess.run(
            [sys.executable, "-m", "anomscan", *arguments],
            input=stdin,
            capture_output=True,
            cwd=cwd or tmp_path,
            env={**kept, "PYTHONPATH": str(REPOSITORY), **environment},
            check=False,
        )

    return call


Fit = Callable[..., Fitted]


@pytest.fixture
def fit(small: BackboneChoice) -> Fit:
    """Adapt the small backbone, by panda-es unless told otherwise; options go to AdaptOptions."""

    def call(
        normals: Path,
        folder: Path,
        rule: HoldOut | None = None,
        reduce: str | None = None,
        progress: Progress = silent,
        **options: Any,
    ) -> Fitted:
        choice = AdaptOptions(**{"method": "panda-es", "backbone": small, **options})
        return adapt(str(normals), str(folder), choice, progress, rule, reduce)

    return call


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subfolders of images that are nothing like the normals."""
    folder = tmp_path_factory.mktemp("others")
    for name in ("squares", "noise"):
        (folder / name).mkdir()
        for seed in range(6):
            pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((64, 64), 0 if name == "squares" else 3).save(
                folder / name / f"{seed}.png"
            )
    return folder
