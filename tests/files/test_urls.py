from __future__ import annotations

import os

import pytest

from anomscan.errors import UsageError
from anomscan.files.urls import absolute, check_local, is_url


@pytest.mark.parametrize(
    "url", ["s3://bucket", "s3://bucket/a b/c.png", "gs://b/x", "memory://x", "az://c/x"]
)
def test_what_has_a_scheme_is_a_url(url: str) -> None:
    assert is_url(url)
    assert absolute(url + "/") == url


@pytest.mark.parametrize(
    "path", ["", "x.png", "/s3/b", "./s3://b", "C://x", "a b://c", "://x", "s3:/b", "s3:", "ü://x", "a/b://c"]
)
def test_all_else_is_on_this_machine(path: str) -> None:
    assert not is_url(path)
    assert absolute(path) == os.path.abspath(path)


def test_what_works_with_local_files_only_refuses_a_url() -> None:
    check_local("--resume", None, "x", "/y")
    with pytest.raises(UsageError, match="--resume works with files of this machine only, not with s3://b/x"):
        check_local("--resume", "x", "s3://b/x")
