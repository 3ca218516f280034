"""Whether somebody is still writing a file."""

from __future__ import annotations

import errno
import os
import signal

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]


def is_closed(path: str) -> bool | None:
    """Whether nobody has the regular file ``path`` open for writing, as the system knows.

    Linux grants a read lease on just such files. It is given back at once; a writer who opens the file in
    that moment waits for it. None where the system does not know or does not say: without leases, on most
    network shares, and for the file of another user.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)  # which, unlike SIGIO, does no harm
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return False if error.errno == errno.EAGAIN else None
    finally:
        os.close(descriptor)
    return True
