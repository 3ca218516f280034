"""Which file systems other machines can write to without this one noticing."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

_REMOTE = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "afs",
    "ceph",
    "gluster",
    "lustre",
    "beegfs",
    "davfs",
    "fuse",
)
_OCTAL = re.compile(rb"\\([0-7]{3})")
_MOUNTS = Path("/proc/self/mountinfo")


def is_remote(path: str, mounts: Path = _MOUNTS) -> bool:
    """Whether ``path`` lies on a network share, or on what may be one; False where that is not known."""
    place, longest, kind = os.fsencode(os.path.realpath(path)), b"", b""
    with suppress(OSError, LookupError, ValueError):
        for line in mounts.read_bytes().splitlines():
            before, _, after = line.partition(b" - ")
            point = _OCTAL.sub(lambda found: bytes([int(found[1], 8)]), before.split()[4])
            if len(point) >= len(longest) and os.path.commonpath([point, place]) == point:
                longest, kind = point, after.split()[0]
    return kind.decode("ascii", "replace").startswith(_REMOTE)
