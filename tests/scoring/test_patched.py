"""What all that compare patches have in common."""

from __future__ import annotations

import numpy as np
import pytest

from anomscan.errors import ModelDamaged
from anomscan.scoring.bank import MOST
from anomscan.scoring.every_patch import MOST as EVERY
from anomscan.scoring.patched import BRIGHT
from anomscan.scoring.registry import PROCEDURES, make_scorer, parse_scorer, patched_class
from anomscan.types import Outputs, PatchMaps
from tests.scoring.features import unit

ALL = [None, *PROCEDURES]
GRID = (4, 5)


def images(count: int, seed: int = 0) -> Outputs:
    patches = np.random.default_rng(seed).normal(size=(count, *GRID, 6)).astype(np.float16)
    return Outputs(unit(count, seed=seed + 1000), patches.astype(np.float32))


@pytest.fixture(params=ALL, ids=str)
def procedure(request: pytest.FixtureRequest) -> str | None:
    return None if request.param is None else str(request.param)


def test_whatever_compares_patches_is_a_scorer_of_images(procedure: str | None) -> None:
    kind, normals, new = patched_class(procedure), images(20), images(5, seed=1)
    bank = kind.banks(kind.most)
    assert normals.patches is not None
    bank.add(normals.patches, [f"/n/{i}.png" for i in range(20)])
    scorer = kind.of(make_scorer(parse_scorer("knn-euclidean")), "patch", bank, seed=0)
    assert len(scorer.fit(normals, seed=0).rows) == 20
    compared = scorer.compared(new)
    assert compared.patches is None
    assert compared.maps is not None
    assert compared.maps.distances.shape == (5, *GRID)
    np.testing.assert_array_equal(scorer.score(compared, 2), scorer.score(new, 2))
    np.testing.assert_array_equal(scorer.aspects(new, 2)["patch_score"], scorer.score(new, 2))
    np.testing.assert_array_equal(scorer.judge(compared, 2).scores, scorer.score(new, 2))
    assert scorer.known(normals.image).all()
    assert scorer.patch_info.most == kind.most
    assert scorer.patch_info.bright == BRIGHT * scorer.patch_info.dark > 0

    assert new.patches is not None
    with pytest.raises(ModelDamaged, match="the network gives 4 x 4 patches"):
        scorer.compared(Outputs(new.image, new.patches[:, :, :4]))

    maps = PatchMaps(np.full((10, 2, 2), 7.0, np.float32), np.zeros((10, 2, 2), np.int64))
    scorer.look_normal(maps)
    assert scorer.patch_info.dark == 7.0

    again = kind.banks.of(scorer.patches.held(), scorer.patches.paths, scorer.patches.grid, kind.most, 0)
    again.forget({"/n/3.png"}, before=20)
    more = kind.of(make_scorer(parse_scorer("knn-euclidean")), "patch", again, 0, known=scorer.patch_info)
    more.fit(Outputs(np.delete(normals.image, 3, axis=0)), seed=0)
    assert more.patch_info.dark == 7.0
    assert np.isfinite(more.score(new, 2)).all()


def test_what_keeps_all_keeps_more(procedure: str | None) -> None:
    assert patched_class(procedure).most == (EVERY if procedure in ("spade", "padim") else MOST)
