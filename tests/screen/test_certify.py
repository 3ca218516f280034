from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomscan.errors import CalibrationTooSmall, InputError
from anomscan.images.defects import DEFECTS
from anomscan.model.manifest import ALL
from anomscan.model.model import Model, read_model
from anomscan.screen.certify import CONTRASTS, SIZES, certify, held_out_images
from tests.conftest import draw_plain, fake_model, silent

TWO = {name: DEFECTS[name] for name in ("hole", "blur")}


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Forty normals, half of them held out; whole images and patches."""
    folder = tmp_path_factory.mktemp("certified")
    (folder / "normal").mkdir()
    for seed in range(40):
        draw_plain(seed).save(folder / "normal" / f"{seed:02}.png")
    fake_model(folder / "normal", folder / "model", 0.5, looks="both")
    return read_model(str(folder / "model"), threads=1)


def test_large_and_strong_defects_are_caught_and_faint_ones_are_not(certified: Model) -> None:
    found = certify(certified, held_out_images(certified), 0.1, silent, draws=6, defects=TWO)
    assert (found.images, found.draws, found.fpr) == (20, 6, 0.1)
    assert (found.clean, found.alarms) == (0, 0)  # those that calibrate were said to be normal
    hole = found.kinds["hole"]
    assert hole.by_size.made == [6] * len(SIZES)
    assert hole.by_contrast.made == [6] * len(CONTRASTS)
    assert hole.by_size.caught[-1] == 6
    assert hole.by_size.caught[0] < 6
    assert SIZES[0] < hole.by_size.low <= SIZES[-1]
    assert sum(found.kinds["blur"].by_size.caught) < sum(hole.by_size.caught)  # a disc has no details
    assert hole.example.pixels.shape == (64, 64, 3)
    x, y, width, height = hole.example.box
    assert 0 <= x < x + width <= 64
    assert 0 <= y < y + height <= 64


def test_the_same_seed_certifies_the_same(certified: Model) -> None:
    one, again = (
        certify(
            certified, held_out_images(certified), 0.1, silent, draws=5, seed=3, defects={"hole": TWO["hole"]}
        )
        for _ in range(2)
    )
    assert one.kinds["hole"].by_size == again.kinds["hole"].by_size
    np.testing.assert_array_equal(one.kinds["hole"].example.pixels, again.kinds["hole"].example.pixels)


def test_other_normals_may_be_named(certified: Model, tmp_path: Path) -> None:
    for seed in range(6):
        draw_plain(900 + seed).save(tmp_path / f"{seed}.png")
    (tmp_path / "broken.png").write_bytes(b"broken")
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    found = certify(certified, paths, 0.1, silent, draws=5, defects={"hole": TWO["hole"]})
    assert (found.images, found.clean) == (6, 6)
    assert found.alarms < 6


def test_what_cannot_be_certified(certified: Model, model: Model, tmp_path: Path) -> None:
    with pytest.raises(CalibrationTooSmall, match=r"--fpr 0\.01 needs 99"):
        certify(certified, held_out_images(certified), 0.01, silent)
    with pytest.raises(CalibrationTooSmall, match="certify needs held-out normals and the model has none"):
        held_out_images(model)
    with pytest.raises(InputError, match="0 of the 20 held-out normals can be read, and 5 are needed"):
        certify(certified, [str(tmp_path / f"{i}.png") for i in range(20)], 0.1, silent)
    with pytest.raises(InputError, match="is among the normals that the model compares with"):
        certify(certified, certified.normals, 0.1, silent)


def test_held_out_normals_elsewhere_are_not_opened(certified: Model, tmp_path: Path) -> None:
    """A model folder may come from somebody else, who wrote its paths."""
    assert certified.calibration is not None
    assert len(held_out_images(certified)) == 20
    draw_plain(901).save(tmp_path / "private.png")
    calibration = replace(certified.calibration, paths=[str(tmp_path / "private.png")] * 20)
    assert held_out_images(replace(certified, calibration=calibration)) == []


def test_where_all_normals_calibrate_others_are_needed(certified: Model, tmp_path: Path) -> None:
    root = Path(certified.manifest.data.root)
    fake_model(root, tmp_path / "m", ALL)
    every = read_model(str(tmp_path / "m"), threads=1)
    with pytest.raises(InputError, match="all calibrate and none is held out; name a folder of others"):
        held_out_images(every)
    with pytest.raises(InputError, match="is among the normals that the model compares with"):
        certify(every, every.normals, 0.1, silent)
    others = [str(tmp_path / f"{seed}.png") for seed in range(6)]
    for seed, path in enumerate(others):
        draw_plain(950 + seed).save(path)
    found = certify(every, others, 0.05, silent, draws=5, defects={"hole": TWO["hole"]})
    assert (found.images, found.clean) == (6, 6)
