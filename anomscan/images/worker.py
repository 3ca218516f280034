"""A process that decodes images for another one, see ``isolate``: ``python -m anomscan.images.worker``.

It reads requests from standard input and answers on standard output, image by image. What it is sent was made
by its parent; what it answers is numbers and text, since a decoder that a file has taken over may answer
anything. By a ``Reading`` instead of a ``Preprocessing`` it tries images and gives none. It imports neither
onnxruntime nor torch, and it does not outlive its parent: it ends with standard input, on Linux with the
thread that started it, and a little after the time limit of an image in any case. Signals that ask its parent
to end, which a terminal or a service manager sends to both, are for the parent to decide on.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import struct
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any, BinaryIO

import numpy as np

from anomscan.errors import UnreadableImage
from anomscan.files.storage import Identity
from anomscan.images.budget import MEMORY_IN_FLIGHT
from anomscan.images.decode import FULL, Decoded, Remarks, look_at, opened
from anomscan.images.find import Source, Unreadable
from anomscan.images.glance import GLANCE
from anomscan.images.memory import memory_limit
from anomscan.signals import ENDING
from anomscan.types import Preprocessing, Reading

LENGTH = struct.Struct(">Q")
GO = b"g"
"""What is answered to one who asks for memory."""
_LATE = 5.0
"""Seconds after the limit at which a process ends by itself: its parent should have killed it by then."""
_ROOM = 3_000_000_000
"""Bytes of addresses beside twice what an image may take: libraries, their threads, what is never touched."""
_PARENT_DEATH_SIGNAL = 1


def main() -> None:
    """Decode what is asked for until there is no more."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    _leave_signals_to_the_parent()
    _die_with_the_parent()
    settings = receive(requests)
    if settings is None:
        return
    rules, seconds = settings
    reading = rules if isinstance(rules, Reading) else rules.reading
    _limit_memory(2 * memory_limit(reading.max_pixels) + _ROOM)

    def ask(amount: int) -> None:
        _alarm(0)
        _answer(answers, {"needs": amount})
        if requests.read(1) != GO:
            sys.exit()
        _alarm(seconds + _LATE)

    MEMORY_IN_FLIGHT.leave_to(ask)
    _answer(answers, {"ready": True})
    while (source := receive(requests)) is not None:
        _alarm(seconds + _LATE)
        if isinstance(rules, Reading):
            answer, pixels = _tried(source, rules), b""
        else:
            answer, pixels = _looked_at(source, rules)
        _alarm(0)
        _answer(answers, answer, pixels)


def receive(requests: BinaryIO) -> Any:
    """The next thing that the parent sends; None at the end."""
    head = requests.read(LENGTH.size)
    return pickle.loads(requests.read(*LENGTH.unpack(head))) if len(head) == LENGTH.size else None  # noqa: S301


def understood(answer: dict[str, Any], path: str, file: str, pixels: bytes) -> Decoded:
    """The image of an answer; raises KeyError, TypeError or ValueError where that is none."""
    shape = tuple(int(side) for side in answer["shape"])
    identity = Identity(*(int(value) for value in answer["identity"]))
    remarks = Remarks(
        **{name: type(getattr(Remarks, name))(value) for name, value in answer["remarks"].items()}
    )
    return Decoded(path, np.frombuffer(bytearray(pixels), np.uint8).reshape(shape), file, identity, remarks)


def _looked_at(source: Source, preprocessing: Preprocessing) -> tuple[dict[str, Any], bytes]:
    found = look_at(source, preprocessing)
    if isinstance(found, Unreadable):
        return {"reason": found.reason.encode("utf-8", "backslashreplace").decode()}, b""
    return _told(found), found.pixels.tobytes()


def _tried(source: Source, reading: Reading) -> dict[str, Any]:
    """Decode an image whole, and at the scale of a small look; what is wrong with it does not matter here."""
    for size in (FULL, (GLANCE, GLANCE)):
        with suppress(UnreadableImage), opened(source.path, size, reading, source.page):
            continue
    return {"tried": True}


def _told(found: Decoded) -> dict[str, Any]:
    identity = found.identity
    assert identity is not None  # noqa: S101 - it was opened
    return {
        "shape": found.pixels.shape,
        "identity": [*identity.values, identity.changed_ns],
        "remarks": asdict(found.remarks),
    }


def _answer(answers: BinaryIO, what: dict[str, Any], pixels: bytes = b"") -> None:
    text = json.dumps({**what, "pixels": len(pixels)}).encode()
    answers.write(LENGTH.pack(len(text)) + text + pixels)
    answers.flush()


def _alarm(seconds: float) -> None:
    """Let the operating system end this process after so many seconds, whatever it does then; 0 for never."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _leave_signals_to_the_parent() -> None:
    for name in ENDING:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _die_with_the_parent() -> None:
    if sys.platform == "linux":
        import ctypes

        parent = os.getppid()
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit()


def _limit_memory(most: int) -> None:
    with suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard == resource.RLIM_INFINITY or most < hard:
            resource.setrlimit(resource.RLIMIT_AS, (most, hard))


if __name__ == "__main__":
    main()
