from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from anomscan.network.backends import OnnxRuntime, OpenVino, backends
from anomscan.network.extractor import Extractor
from tests.fakes import fake_network

IMAGES = list(np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), np.uint8))


def test_images_are_run_some_at_a_time(tmp_path: Path) -> None:
    graph = fake_network(tmp_path, 16).graph
    first, *others = backends(graph, threads=1)
    assert isinstance(first, OnnxRuntime)
    assert len(others) == (find_spec("openvino") is not None)
    expected = Extractor(graph, threads=1).run(np.stack(IMAGES)).image
    for backend in (first, *others):
        found = backend.run_each(IMAGES, batch=2)
        assert list(found) == ["image"]
        np.testing.assert_allclose(found["image"], expected, atol=1e-6)
        assert backend.milliseconds(IMAGES) > 0
        assert backend.version.startswith(("onnxruntime ", "openvino "))


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_keeps_32_bits(tmp_path: Path) -> None:
    backend = OpenVino(fake_network(tmp_path, 16).graph, threads=1)
    assert backend.version.count(".") == 2
    assert backend.run(np.stack(IMAGES))["image"].dtype == np.float32
