r"""Which images are views of one part: a rule on their names.

``prefix`` is the name, in its folder, up to the last ``_`` or ``-`` (``lot7_0012_left.png`` is a view of
``lot7_0012``; pages of one file are views, too). ``folder`` is the folder of the image. Anything else is a
regular expression that is searched in the absolute path: what its groups match, joined by ``/``, names the
part, wherever the image lies (``/(\d+)[^/]*$``). An image in which it is not found is a part of its own.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property

from anomscan.errors import UsageError
from anomscan.files.urls import absolute


@dataclass(frozen=True)
class PartRule:
    """How images become parts; see above."""

    text: str

    @classmethod
    def parse(cls, text: str, option: str) -> PartRule:
        """The rule as on the command line; raises UsageError where it is none."""
        if not is_rule(text):
            raise UsageError(
                f"{option} takes a rule by its name, or a regular expression with a group around what views "
                f"of a part have in common, such as '/([0-9]+)_', not {text!r}"
            )
        return cls(text)

    def of(self, path: str) -> str:
        """The part that an image shows, by the image's path."""
        folder, name = os.path.split(path)
        if self.text == "folder":
            return folder
        if self.text == "prefix":
            stem = os.path.splitext(name)[0]
            return os.path.join(folder, re.sub(r"[_-][^_-]*$", "", stem) or stem)
        found = self._pattern.search(absolute(path))
        return path if found is None else "/".join(group for group in found.groups() if group is not None)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(self.text)


def is_rule(text: str) -> bool:
    """Whether ``text`` is ``prefix``, ``folder``, or a regular expression with a group."""
    if text in ("prefix", "folder"):
        return True
    try:
        return re.compile(text).groups > 0
    except re.error:
        return False
