"""Commands of ``anomscan`` for ``workshop.py``, each in a fork of a process that has imported most of them.

``python benchmarks/command.py`` reads a line of JSON for each, a number, its folder, the file that takes its
messages and its arguments, and answers ``begun NUMBER PID`` when it is about to work, and ``ended NUMBER
CODE``. It has one thread, and ends rather than fork when it has more: in a fork the locks of others may be
taken for ever, and their data half written. So each command imports onnxruntime, which starts one, itself.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import select
import sys
import traceback
from pathlib import Path

from anomscan.__main__ import main

GROUP = 16
"""Images that are scored, and committed to the journal or the state of a watch, together."""
WITHOUT_THREADS = (
    *("torch", "timm", "faiss", "sqlite3", "watchfiles", "PIL.ImageFile", "PIL.PngImagePlugin"),
    *("anomscan.cli.console", "anomscan.images.decode", "anomscan.model.folder", "anomscan.report.rows"),
    *("anomscan.scoring.registry", "anomscan.stats.calibration", "anomscan.files.ledger"),
)
NEEDED = {
    "adapt": ("adapt.checkpoint", "adapt.make", "fit.adapt"),
    "index": ("fit.index", "fit.feedback"),
    "score": ("screen.screener", "screen.run", "report.html"),
    "export": ("fit.export", "fit.export_scored"),
    "watch": ("screen.watch", "files.ledger"),
}
COMMIT_OFTEN: dict[str, dict[str, float]] = {
    "screen.screener": {"SEARCH": GROUP},
    "screen.watch": {"BATCH": GROUP},
    "adapt.checkpoint": {"EVERY": 0.0, "DEAREST": math.inf},
}


def serve() -> None:
    """Fork for each line until there is no more."""
    for name in WITHOUT_THREADS:
        importlib.import_module(name)
    running: dict[int, int] = {}
    heard = b""
    while True:
        if select.select([0], [], [], 0.01 if running else None)[0]:
            read = os.read(0, 1 << 16)
            if not read:
                return
            *lines, heard = (heard + read).split(b"\n")
            for line in lines:
                number, *asked = json.loads(line)
                running[_forked(number, *asked)] = number
        for process in list(running):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                _say(f"ended {running.pop(process)} {os.waitstatus_to_exitcode(status)}")


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def _forked(number: int, folder: str, messages: str, arguments: list[str]) -> int:
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        sys.exit(f"a process of {threads} threads is not to be forked")
    process = os.fork()
    if not process:
        _begin(number, folder, messages, arguments)
    return process


def _begin(number: int, folder: str, messages: str, arguments: list[str]) -> None:
    """Run a command; never returns."""
    code = 99
    try:
        os.dup2(os.open(messages, os.O_WRONLY), 2)
        for name in NEEDED[arguments[0]]:
            module = importlib.import_module(f"anomscan.{name}")
            for constant, value in COMMIT_OFTEN.get(name, {}).items():
                if not hasattr(module, constant):
                    raise AttributeError(f"{name} has no {constant}")
                setattr(module, constant, value)
        os.chdir(folder)
        _say(f"begun {number} {os.getpid()}")
        for stream, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY)):
            os.dup2(os.open(os.devnull, mode), stream)
        sys.argv = ["anomscan", *arguments]
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    serve()
