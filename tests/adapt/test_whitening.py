from __future__ import annotations

import numpy as np
import pytest
import torch

from anomscan.adapt.whitening import POWER, RootedFeatures, Spectrum
from anomscan.types import Features


def drawn(count: int, dim: int, seed: int = 0) -> Features:
    """Averages of rectified outputs: not negative, heavy-tailed, of very different sizes."""
    generator = np.random.default_rng(seed)
    return generator.gamma(0.5, 1, (count, dim)).astype(np.float32) * np.linspace(
        0.1, 3, dim, dtype=np.float32
    )


def read(module: RootedFeatures, features: Features) -> Features:
    with torch.no_grad():
        output: Features = module(torch.from_numpy(features)).numpy()
        return output


@pytest.mark.parametrize(("count", "dim"), [(400, 12), (10, 30)])
def test_the_shrunk_covariance_is_that_of_ledoit_and_wolf(count: int, dim: int) -> None:
    features = np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32) * np.arange(1, dim + 1)
    spectrum = Spectrum.of(features.astype(np.float32))
    centred = features - features.mean(axis=0)
    sample, average = centred.T @ centred / count, np.square(centred).sum() / count / dim
    distance = np.square(sample - average * np.eye(dim)).sum()
    noise = np.mean([np.square(np.outer(row, row) - sample).sum() for row in centred]) / count
    assert spectrum.shrinkage == pytest.approx(min(1, noise / distance), rel=1e-3)
    shrunk = (1 - spectrum.shrinkage) * sample + spectrum.shrinkage * average * np.eye(dim)
    rest = spectrum.rest * (np.eye(dim) - spectrum.axes @ spectrum.axes.T)
    np.testing.assert_allclose(
        (spectrum.axes * spectrum.variances) @ spectrum.axes.T + rest,
        shrunk,
        atol=1e-3 * np.abs(shrunk).max(),
    )


@pytest.mark.parametrize(("count", "dim"), [(300, 20), (15, 40)])
def test_it_is_the_root_times_the_covariance_to_minus_the_power(count: int, dim: int) -> None:
    normals, queries = drawn(count, dim), drawn(5, dim, seed=1)
    module = RootedFeatures(normals)
    rooted = np.sqrt(normals) / np.linalg.norm(np.sqrt(normals), axis=1, keepdims=True)
    spectrum = Spectrum.of(rooted)
    full = (spectrum.axes * spectrum.variances) @ spectrum.axes.T
    full += spectrum.rest * (np.eye(dim) - spectrum.axes @ spectrum.axes.T)
    values, vectors = np.linalg.eigh(full)
    matrix = (vectors * values**-POWER) @ vectors.T
    new = np.sqrt(queries) / np.linalg.norm(np.sqrt(queries), axis=1, keepdims=True)
    expected = (new - rooted.mean(axis=0)) @ matrix
    found = read(module, queries)
    np.testing.assert_allclose(found / np.linalg.norm(found), expected / np.linalg.norm(expected), atol=1e-5)


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_the_spread_of_the_normals_stays(weight: float) -> None:
    normals = drawn(100, 20)
    rooted = np.sqrt(normals) / np.linalg.norm(np.sqrt(normals), axis=1, keepdims=True)
    spread = np.square(rooted - rooted.mean(axis=0)).sum(axis=1).mean()
    found = read(RootedFeatures(normals, weight), normals)
    assert np.square(found).sum(axis=1).mean() == pytest.approx(weight * spread, rel=1e-4)


def test_features_with_negative_components_have_no_root() -> None:
    normals = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    module = RootedFeatures(normals)
    assert not module.rooted
    assert np.isfinite(read(module, normals)).all()
    scaled = read(module, 3 * normals)
    np.testing.assert_allclose(scaled, read(module, normals), atol=1e-5)


def test_the_root_can_be_left_out() -> None:
    features = drawn(300, 12)
    found = read(RootedFeatures(features, power=0.0, root=False), features)
    np.testing.assert_allclose(found, features / np.linalg.norm(features, axis=1, keepdims=True), rtol=1e-5)
    whitened = RootedFeatures(features, weight=2.0, root=False)
    assert not whitened.rooted
    spread = [np.square(some - some.mean(axis=0)).sum() for some in (found, read(whitened, features))]
    assert spread[1] == pytest.approx(2 * spread[0], rel=1e-3)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_or_equal_normals_still_make_a_readout(count: int) -> None:
    same = np.tile(drawn(1, 30), (count, 1))
    for normals in (drawn(count, 30), same):
        found = read(RootedFeatures(normals), drawn(4, 30, seed=2))
        assert np.isfinite(found).all()
        assert len(np.unique(found.round(6), axis=0)) == 4


def test_without_a_power_nothing_is_fitted_to_the_normals() -> None:
    generator = np.random.default_rng(8)
    some, others = (generator.random((n, 6)).astype(np.float32) for n in (5, 9))
    query = torch.from_numpy(generator.random((4, 6)).astype(np.float32))
    first, second = RootedFeatures(some, 0.25, 0.0), RootedFeatures(others, 0.25, 0.0)
    torch.testing.assert_close(first(query), second(query))
    torch.testing.assert_close(first(query), 0.5 * torch.nn.functional.normalize(query.sqrt(), dim=1))
    assert first.settings == {"root": True, "whitening": 0}
