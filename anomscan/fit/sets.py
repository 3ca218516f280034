"""Which of many belong together, when it is said pair by pair."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

Member = TypeVar("Member", int, str)


class Sets(Generic[Member]):
    """Disjoint sets, at first of one member each; a set is called by its smallest member."""

    def __init__(self, members: Iterable[Member]) -> None:
        self._parent: dict[Member, Member] = {member: member for member in members}

    def of(self, member: Member) -> Member:
        """The set of a member."""
        while self._parent[member] != member:
            self._parent[member] = member = self._parent[self._parent[member]]
        return member

    def join(self, one: Member, other: Member) -> None:
        """Make the sets of two members one."""
        first, second = self.of(one), self.of(other)
        self._parent[max(first, second)] = min(first, second)
