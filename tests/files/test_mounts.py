from __future__ import annotations

import os
from pathlib import Path

import pytest

from anomscan.files.mounts import is_remote

MOUNTS = rb"""22 1 253:0 / / rw shared:1 - ext4 /dev/vda rw
30 22 0:40 / /mnt/nas rw - nfs4 nas:/x rw
31 30 0:41 / /mnt/nas/local rw - ext4 /dev/vdb rw
32 22 0:42 / /mnt/a\040b rw - cifs //nas/b rw
33 22 0:43 / /mnt/caf\351 rw - fuse.sshfs nas:/c rw
34 22 0:44 / /mnt/nas2 rw - tmpfs none rw
"""


@pytest.mark.parametrize(
    ("path", "remote"),
    [
        (b"/home/line", False),
        (b"/mnt/nas", True),
        (b"/mnt/nas/in/today", True),
        (b"/mnt/nas/local/in", False),
        (b"/mnt/nas2/in", False),
        (b"/mnt/a b/in", True),
        (b"/mnt/caf\xe9/in", True),
    ],
)
def test_the_innermost_mount_tells(tmp_path: Path, path: bytes, remote: bool) -> None:
    (tmp_path / "mounts").write_bytes(MOUNTS)
    assert is_remote(os.fsdecode(path), tmp_path / "mounts") is remote


def test_where_nothing_is_known_it_is_local(tmp_path: Path) -> None:
    assert not is_remote("/", tmp_path / "none")
    (tmp_path / "odd").write_text("what is this?\n")
    assert not is_remote("/", tmp_path / "odd")
