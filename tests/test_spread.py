import pytest

from anomscan.spread import spread_over


@pytest.mark.parametrize(
    ("count", "most", "chosen"),
    [(5, 9, [0, 1, 2, 3, 4]), (5, 3, [0, 2, 4]), (10, 4, [0, 3, 6, 9]), (7, 1, [0]), (0, 3, []), (3, 0, [])],
)
def test_few_stand_for_all(count: int, most: int, chosen: list[int]) -> None:
    assert spread_over(count, most).tolist() == chosen


def test_no_place_is_taken_twice() -> None:
    assert len(set(spread_over(1001, 1000).tolist())) == 1000
