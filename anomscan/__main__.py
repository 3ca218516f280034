"""Run the command line: ``anomscan``, or ``python -m anomscan``."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from anomscan.cli import app
from anomscan.errors import AnomscanError

TRAINING_PACKAGES = ("torch", "torchvision", "timm", "safetensors", "onnx", "onnxscript")


class _Interrupted(BaseException):
    """Ctrl-C; unlike KeyboardInterrupt, typer lets it pass."""


def _interrupt(*_: object) -> NoReturn:
    raise _Interrupted


def main() -> NoReturn:
    """Run the command line; every expected error becomes one sentence and an exit code.

    An interrupted run dies of the signal, so that the loop of a shell script around it ends too.
    """
    from anomscan.console import message

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except AnomscanError as error:
        message(f"anomscan: {error}")
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name not in TRAINING_PACKAGES:
            raise
        message(
            f"anomscan: this needs torch and timm, which an installation for scoring only leaves out "
            f"({error.name} is missing)"
        )
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except _Interrupted:
        message("anomscan: interrupted; nothing was changed")
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    sys.exit(0)


if __name__ == "__main__":
    main()
