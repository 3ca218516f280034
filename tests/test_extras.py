from __future__ import annotations

import tomllib

import pytest

from anomscan.errors import MissingExtra
from anomscan.extras import extra
from tests.conftest import REPOSITORY


def test_a_missing_package_is_named_with_what_installs_it() -> None:
    with pytest.raises(MissingExtra) as caught, extra("parquet", "--format parquet"):
        import no_such_package  # noqa: F401
    assert str(caught.value) == (
        "--format parquet needs the package no_such_package: pip install 'anomscan[parquet]'"
    )


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match="other"), extra("parquet", "this"):
        raise ValueError("other")


def test_the_base_installation_has_none_of_their_packages() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    optional = {
        package.partition(">")[0].partition("[")[0]
        for name, packages in project["optional-dependencies"].items()
        for package in packages
        if name != "test"
    }
    assert "pyarrow" in optional
    assert not [package for package in project["dependencies"] if package.startswith(tuple(optional))]
