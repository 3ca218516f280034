"""The error tree: drawn at its top, and explained to users."""

from __future__ import annotations

import re

import pytest

from anomscan import errors
from anomscan.errors import AnomscanError, UsageError
from tests.conftest import REPOSITORY


def tree(root: type[AnomscanError]) -> list[type[AnomscanError]]:
    return [kind for child in root.__subclasses__() for kind in (child, *tree(child))]


KINDS = [kind for kind in tree(AnomscanError) if kind.__module__ == errors.__name__]


def test_the_drawing_is_the_tree() -> None:
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    assert sorted(drawn) == sorted(kind.__name__ for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_has_a_cause_and_a_remedy_in_the_docs(kind: type[AnomscanError]) -> None:
    rows = re.findall(
        rf"^\| `{kind.__name__}` \| (.+) \| (.+) \|$",
        (REPOSITORY / "docs/errors.md").read_text(),
        re.MULTILINE,
    )
    assert len(rows) == 1
    assert all(len(cell) > 10 for cell in rows[0])
    assert kind.exit_code == (2 if issubclass(kind, UsageError) else 1)
