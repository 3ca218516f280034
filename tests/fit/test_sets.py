from __future__ import annotations

from anomscan.fit.sets import Sets


def test_what_is_joined_is_one_set_called_by_its_smallest_member() -> None:
    sets = Sets(range(7))
    for pair in ((5, 3), (6, 5), (1, 2), (3, 3)):
        sets.join(*pair)
    assert [sets.of(i) for i in range(7)] == [0, 1, 1, 3, 4, 3, 3]
    sets.join(2, 6)
    assert [sets.of(i) for i in range(7)] == [0, 1, 1, 1, 4, 1, 1]


def test_names_work_too() -> None:
    sets = Sets(["b", "a", "c"])
    sets.join("b", "c")
    assert [sets.of(name) for name in "abc"] == ["a", "b", "b"]
