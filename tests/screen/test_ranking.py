from __future__ import annotations

import os
import sqlite3
import tracemalloc
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from anomscan.images.find import Unreadable
from anomscan.report.rows import Row
from anomscan.screen.ranking import Ranking
from tests.fakes import identity, scored


def test_equal_scores_keep_their_order_and_odd_names_come_back(ranking: Ranking) -> None:
    names = [os.fsdecode(name) for name in (b"b", b"a", b"\xff\n", b"=c")]
    for name in names:
        ranking.add(scored([name], [0.5], nearest=[name]))
    ranking.add_unreadable(Unreadable(names[2], "broken"))
    rows = list(ranking.rows())
    assert [row.path for row in rows] == [*names[:3], "./=c", names[2]]
    assert [row.nearest_normal for row in rows] == [*names[:3], "./=c", None]
    assert (ranking.scored, ranking.unreadable, ranking.total) == (4, 1, 5)


def test_scores_and_p_values_come_back(ranking: Ranking) -> None:
    ranking.add(scored(["a", "b", "c"], [0.1, 0.3, 0.2], [1.0, 0.25, 0.5]))
    ranking.add(scored(["d"], [0.4]))
    assert [(row.rank, row.path, row.p_value) for row in ranking.rows()] == [
        (1, "d", None),
        (2, "b", 0.25),
        (3, "c", 0.5),
        (4, "a", 1.0),
    ]
    printed = [0.4, 0.3, 0.2, 0.1]  # and not as rounded to 32 bits
    assert [row.score for row in ranking.rows()] == printed
    assert [row.path for row in ranking.rows(2)] == ["d", "b"]


def test_further_columns_come_back(ranking: Ranking) -> None:
    aspects = {"image_score": [0.7, 0.8, 0.9], "patch_score": [3.1, 3.2, 3.3]}
    boxes = [[(1, 2, 3, 4), (50, 60, 7, 8)], [], None]
    ranking.add(scored("abc", [0.1, 0.3, 0.2], aspects=aspects), boxes)
    ranking.add(scored("d", [0.05]))
    ranking.add_unreadable(Unreadable("e", "broken"))
    found = [(row.path, row.image_score, row.patch_score, row.regions) for row in ranking.rows()]
    assert found == [
        ("b", 0.8, 3.2, []),  # and not as rounded to 32 bits
        ("c", 0.9, 3.3, None),
        ("a", 0.7, 3.1, [(1, 2, 3, 4), (50, 60, 7, 8)]),
        ("d", None, None, None),
        ("e", None, None, None),
    ]
    ranking.mark(score=0.15)
    assert [row.anomalous for row in ranking.rows()] == [True, True, False, False, None]
    assert next(ranking.rows(1)).regions == []


def test_the_ranking_does_not_grow_in_memory(ranking: Ranking) -> None:
    values = np.random.default_rng(0).random(30_000)
    tracemalloc.start()
    for start in range(0, len(values), 10):
        paths = [f"/some/long/folder/name/image-{i}.png" for i in range(start, start + 10)]
        ranking.add(scored(paths, values[start : start + 10].tolist(), nearest=["/normal.png"] * 10))
    assert next(ranking.rows(1)).rank == 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_figures_of_all_scores(ranking: Ranking) -> None:
    ranking.add(scored("0123", [1.0, 0.9, 0.8, 0.7], [1 / 11, 1 / 11, 2 / 11, 1.0]))
    ranking.add_unreadable(Unreadable("broken", "broken"))
    p_values, counts = ranking.p_values()
    assert p_values.tolist() == [1 / 11, 2 / 11, 1.0]
    assert counts.tolist() == [2, 1, 1]
    assert [ranking.quantile(share) for share in (0, 0.5, 1)] == [0.7, 0.8, 1.0]
    assert ranking.histogram(0.65, 0.85, 2) == [1, 3]


def test_marks(ranking: Ranking) -> None:
    ranking.add(scored("abc", [0.3, 0.2, 0.1], [0.1, 0.5, 1.0]))
    ranking.add(scored("a", [0.3], [0.1]))
    ranking.add_unreadable(Unreadable("broken", "broken"))
    assert {row.anomalous for row in ranking.rows()} == {None}
    ranking.mark(p_value=0.5)
    assert [row.anomalous for row in ranking.rows()] == [True, True, True, False, None]
    assert list(ranking.anomalous_files()) == [("a", identity("a")), ("b", identity("b"))]  # each once
    ranking.mark(score=0.25)
    assert [row.anomalous for row in ranking.rows()] == [True, True, False, False, None]
    assert ranking.anomalous == 2


def test_a_closed_ranking_is_gone() -> None:
    ranking = Ranking()
    ranking.close()
    with pytest.raises(sqlite3.ProgrammingError):
        ranking.add(scored(["a"], [0.5]))


def test_parts_are_gathered_and_all_their_files_go_together() -> None:
    with closing(Ranking(part_of=lambda path: path[:1])) as ranking:
        ranking.add(scored(["a1", "b1", "a2", "b2"], [0.1, 0.4, 0.9, 0.5], [0.9, 0.3, 0.1, 1.0]))
        ranking.add_unreadable(Unreadable("b3", "broken"))
        ranking.add_unreadable(Unreadable("c1", "broken"))
        seen: list[tuple[list[str], int]] = []

        def judge(views: list[Row], unreadable: int) -> Row:
            seen.append(([view.path for view in views], unreadable))
            return replace(views[0], p_value=2 * (views[0].p_value or 0), views=[view.path for view in views])

        ranking.gather(judge)
        assert seen == [(["a2", "a1"], 0), (["b1", "b2"], 1)]  # what was said to be normal comes last
        ranking.mark(p_value=0.2)
        ranking.mark_review(0.2, 0.7)
        rows = list(ranking.rows(1))
        assert [(row.rank, row.path, row.part, row.anomalous) for row in rows] == [
            (1, "a2", "a", True),
            (None, "b3", "b", None),
            (None, "c1", "c", None),
        ]
        assert rows[0].views == ["a2", "a1"]
        assert [path for path, _ in ranking.anomalous_files()] == ["a2", "a1"]
        assert [path for path, _ in ranking.review_files()] == ["b2", "b1"]
        assert (ranking.anomalous, ranking.to_review, ranking.ranked, ranking.total) == (1, 1, 2, 6)
        assert ranking.quantile(1.0) == pytest.approx(0.9)
