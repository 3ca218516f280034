from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from anomscan.__main__ import main
from tests.conftest import Run, draw, draw_odd


@contextmanager
def as_before() -> Iterator[None]:
    """Give back what a command does to its process: signals, warnings, standard output."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    output = os.dup(1)
    with warnings.catch_warnings():
        try:
            yield
        finally:
            os.dup2(output, 1)
            os.close(output)
            for number, handler in signals.items():
                signal.signal(number, handler)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``anomscan`` as the root's fixture does, but in this process: a start takes half a second."""
    for name in [name for name in os.environ if name.startswith("ANOMSCAN")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")

    def call(
        *arguments: str | bytes | Path, stdin: bytes = b"", cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        command = ["anomscan", *(os.fsdecode(argument) for argument in arguments)]
        given, printed, told = (
            tmp_path.parent / f"{tmp_path.name}.{name}" for name in ("stdin", "stdout", "stderr")
        )
        given.write_bytes(stdin)
        with monkeypatch.context() as patch, ExitStack() as stack:
            out = stack.enter_context(open(printed, "w", encoding="utf-8"))
            error = stack.enter_context(open(told, "w", encoding="utf-8", errors="backslashreplace"))
            patch.chdir(cwd or tmp_path)
            patch.setattr(sys, "argv", command)
            patch.setattr(sys, "stdin", stack.enter_context(open(given, encoding="utf-8")))
            for name, value in environment.items():
                patch.setenv(name, value)
            stack.enter_context(redirect_stdout(out))
            stack.enter_context(redirect_stderr(error))
            stack.enter_context(as_before())
            ended = stack.enter_context(pytest.raises(SystemExit))
            main()
        code = ended.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(command, code, printed.read_bytes(), told.read_bytes())

    return call


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    """Six drawn images."""
    folder = tmp_path / "incoming"
    folder.mkdir()
    for seed in range(6):
        draw(400 + seed).save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def judged(incoming: Path) -> Path:
    """Six drawn images like the normals, and two that are not."""
    for name in ("odd.png", "=odd.png"):
        draw_odd(410).save(incoming / name)
    return incoming
