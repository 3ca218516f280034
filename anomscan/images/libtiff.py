"""What libtiff says of a damaged file, as a reason instead of lines on standard error.

Pillow leaves libtiff's errors to libtiff, which prints them, without the name of a file, and may go on: of a
fax with a bad code word Pillow then has an image. Where its functions cannot be found from Pillow's own
library, as on Windows, where they are part of it, nothing is changed.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from PIL import _imaging

from anomscan.errors import UnreadableImage

_said = threading.local()
_LONGEST = 200
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p)


@contextmanager
def errors_are_raised() -> Iterator[None]:
    """Raise UnreadableImage with the first thing that libtiff finds wrong in this block, in this thread."""
    _listen()
    _said.first, failure = None, None
    try:
        yield
    except OSError as error:  # of Pillow, which does not know why
        failure = error
    said, _said.first = _said.first, None
    if said:
        raise UnreadableImage(f"a damaged TIFF: {said}") from failure
    if failure is not None:
        raise failure


@lru_cache(1)
def _listen() -> list[object]:
    """Let libtiff call ``heard`` for every error; what is returned must stay alive."""
    try:
        library, c = ctypes.CDLL(_imaging.__file__), ctypes.CDLL(None)
        listen, silence, format_ = library.TIFFSetErrorHandler, library.TIFFSetWarningHandler, c.vsnprintf
    except (OSError, AttributeError, TypeError):  # TypeError: Windows
        return []
    format_.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p)

    def heard(module: bytes | None, template: int, values: int) -> None:
        if getattr(_said, "first", None) is None:
            text = ctypes.create_string_buffer(_LONGEST)
            format_(text, _LONGEST, template, values)
            _said.first = (
                text.value.decode("utf-8", "replace").strip().rstrip(".") or "libtiff cannot read it"
            )

    handler = _Handler(heard)
    for function in (listen, silence):
        function.argtypes, function.restype = (ctypes.c_void_p,), ctypes.c_void_p
    silence(None)
    listen(ctypes.cast(handler, ctypes.c_void_p))
    return [library, handler]
