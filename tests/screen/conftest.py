from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from anomscan.screen.ranking import Ranking
from tests.conftest import draw, draw_odd


@pytest.fixture(scope="session")
def incoming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventy drawn images, one that is unlike them, one that is broken. Read it, never write it."""
    folder = tmp_path_factory.mktemp("incoming")
    for seed in range(70):
        draw(200 + seed).save(folder / f"{seed:02}.png")
    draw_odd(300).save(folder / "odd.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much")
    return folder


@pytest.fixture
def ranking() -> Iterator[Ranking]:
    """An empty ranking."""
    ranking = Ranking()
    yield ranking
    ranking.close()
