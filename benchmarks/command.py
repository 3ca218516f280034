"""One command of ``anomscan`` for ``workshop.py``.

``python benchmarks/command.py DESCRIPTOR ARGUMENTS...`` imports what the command needs, lets it commit more
often than it would, closes the descriptor and begins: whoever disturbs it from then on disturbs the work, not
the start of Python.
"""

from __future__ import annotations

import importlib
import math
import os
import sys

from anomscan.__main__ import main

GROUP = 16
"""Images that are scored, and committed to the journal or the state of a watch, together."""
NEEDED = {
    "adapt": ("adapt.checkpoint", "adapt.make", "fit.adapt"),
    "index": ("fit.index", "fit.feedback"),
    "score": ("screen.screener", "screen.run", "report.html"),
    "export": ("fit.export",),
    "watch": ("screen.watch", "files.ledger"),
}
COMMIT_OFTEN = {
    "screen.screener": {"SEARCH": GROUP},
    "screen.watch": {"BATCH": GROUP},
    "adapt.checkpoint": {"EVERY": 0.0, "DEAREST": math.inf},
}


def begin(descriptor: int, arguments: list[str]) -> None:
    """Run it; never returns."""
    for name in NEEDED[arguments[0]]:
        module = importlib.import_module(f"anomscan.{name}")
        for constant, value in COMMIT_OFTEN.get(name, {}).items():
            if not hasattr(module, constant):
                raise AttributeError(f"{module.__name__} has no {constant}")
            setattr(module, constant, value)
    os.close(descriptor)
    sys.argv = ["anomscan", *arguments]
    main()


if __name__ == "__main__":
    begin(int(sys.argv[1]), sys.argv[2:])
