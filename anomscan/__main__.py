"""Run the command line: ``anomscan``, or ``python -m anomscan``."""

from __future__ import annotations

import gc
import os
import signal
import sys
import warnings
from types import FrameType
from typing import NoReturn

gc.set_threshold(100_000)  # importing makes 80,000 objects and no garbage

from anomscan.cli import app  # noqa: E402
from anomscan.errors import AnomscanError  # noqa: E402

TRAINING_PACKAGES = ("torch", "torchvision", "timm", "safetensors", "onnx", "onnxscript")
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class _Interrupted(BaseException):
    """A signal that asks for the end; unlike KeyboardInterrupt, typer lets it pass."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise _Interrupted(number)


def main() -> NoReturn:
    """Run the command line; every expected error becomes one sentence and an exit code.

    An interrupted run cleans up and dies of the signal, so that the loop of a shell script around it ends.
    """
    _open_standard_streams()
    from anomscan.cli.console import message

    for name in _SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _interrupt)
    warnings.filterwarnings("ignore", module="PIL")  # they name no file; what matters becomes a row's reason
    try:
        app()
    except SystemExit as ended:
        _leave(ended.code if isinstance(ended.code, int) else 0)
    except AnomscanError as error:
        message("; ".join([f"anomscan: {error}", *getattr(error, "__notes__", [])]))
        _leave(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name not in TRAINING_PACKAGES:
            raise
        message(
            f"anomscan: this needs {error.name}, which an installation for scoring only leaves out; "
            "install anomscan with all it depends on"
        )
        _leave(1)
    except BrokenPipeError:
        _leave(0)
    except MemoryError:
        message("anomscan: out of memory; try fewer --threads, a smaller --max-pixels or a reduced gallery")
        _leave(1)
    except OSError as error:
        where = error.filename or ("a temporary file" if _flushed(1) else "standard output")
        message(f"anomscan: {where}: {error.strerror or error}")
        _leave(1)
    except _Interrupted as interrupted:
        done = "; ".join(getattr(interrupted, "__notes__", ["nothing was changed"]))
        message(f"anomscan: interrupted; {done}")
        signal.signal(interrupted.number, signal.SIG_DFL)
        os.kill(os.getpid(), interrupted.number)
    _leave(0)


def _open_standard_streams() -> None:
    """Put something behind a closed standard stream, or the next file opened would take its place.

    Reading finds nothing and messages vanish; rows cannot be written, and say so.
    """
    for number, mode, name in ((0, os.O_RDWR, "stdin"), (1, os.O_RDONLY, "stdout"), (2, os.O_RDWR, "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, mode), number)
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def _leave(code: int) -> NoReturn:
    """Exit, without the last words for a standard stream that nobody reads or that has no room.

    Nor is there a last search for garbage: in all that was imported it takes a sixth of a short run.
    """
    gc.freeze()
    for number in (1, 2):
        if not _flushed(number):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    sys.exit(code)


def _flushed(number: int) -> bool:
    """Whether all that was printed there could be written."""
    try:
        (sys.stdout if number == 1 else sys.stderr).flush()
    except (OSError, ValueError):
        return False
    return True


if __name__ == "__main__":
    main()
