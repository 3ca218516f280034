from __future__ import annotations

import pytest

from anomscan.adapt.parts import Part


def test_a_part_asks_for_nothing_unless_it_says_so() -> None:
    class Plain(Part):
        def describe(self) -> str:
            return "plain"

    part = Plain()
    assert (part.needs, part.needs_classifier, part.normalises) == (None, False, False)
    assert part.learns == frozenset()


def test_a_part_must_describe_itself() -> None:
    class Silent(Part):
        pass

    with pytest.raises(TypeError, match="describe"):
        Silent()
