from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomscan.errors import ModelDamaged, UsageError
from anomscan.scoring import bank as bank_module
from anomscan.scoring.every_patch import EveryPatch, WholeBank
from anomscan.scoring.patches import PATCHES, PLACES
from anomscan.types import Features

ROWS, COLUMNS = 4, 5
PATHS = [os.fsdecode(name) for name in (b"/n/0.png", b"/n/\xff\n.png", "/n/ü 🔩.png".encode())]


def made(images: int, seed: int = 0) -> Features:
    """Random patches, (images, 4, 5, 6), that fit into 16 bits."""
    patches = np.random.default_rng(seed).normal(size=(images, ROWS, COLUMNS, 6))
    return patches.astype(np.float16).astype(np.float32)


def kept(patches: Features, paths: list[str]) -> EveryPatch:
    bank = WholeBank()
    bank.add(patches, paths)
    return EveryPatch.of(bank)


def test_all_are_kept_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_module, "WAITING", 30)
    patches, bank = made(9), WholeBank()
    for part in np.split(patches, 3):
        bank.add(part, [f"/n/{len(bank.paths) + i}.png" for i in range(3)])
    store = EveryPatch.of(bank)
    np.testing.assert_array_equal(store.features, patches)
    assert (store.paths, store.grid) == ([f"/n/{i}.png" for i in range(9)], (ROWS, COLUMNS))
    assert len(store) == 9 * ROWS * COLUMNS
    assert store.origin(2 * ROWS * COLUMNS + 7) == ("/n/2.png", 1, 2)


def test_more_than_the_most_are_refused() -> None:
    bank = WholeBank(most=50)
    bank.add(made(2), ["a", "b"])
    with pytest.raises(UsageError, match=r"keeps every patch of the normals, 20 of each, .* than 50 of all"):
        bank.add(made(1), ["c"])


def test_nothing_is_left_out_whatever_a_file_says_of_the_most() -> None:
    patches = made(3)
    bank = WholeBank.of(kept(patches, list("abc")).held(), list("abc"), patches.shape[1:3], 1, 0)
    assert len(EveryPatch.of(bank)) == np.prod(patches.shape[:3])


def test_normals_leave_and_come() -> None:
    patches = made(4)
    store = kept(patches, list("abcd"))
    again = WholeBank.of(store.held(), store.paths, store.grid, 1000, 0)
    again.add(made(2, seed=1), ["b", "e"])
    again.forget({"b", "c"}, before=4)
    changed = EveryPatch.of(again)
    assert changed.paths == ["a", "d", "b", "e"]
    np.testing.assert_array_equal(changed.features, [*patches[[0, 3]], *made(2, seed=1)])


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = kept(made(3), PATHS)
    files = store.save(tmp_path)
    assert set(files) == {PATCHES, PLACES}
    again = EveryPatch.load(files)
    np.testing.assert_array_equal(again.features, store.features)
    assert (again.paths, again.grid) == (PATHS, (ROWS, COLUMNS))


@pytest.mark.parametrize(
    ("role", "name", "value"),
    [
        (PATCHES, "patches", None),
        (PATCHES, "patches", made(3)),
        (PATCHES, "patches", made(3)[0].astype(np.float16)),
        (PATCHES, "patches", made(2).astype(np.float16)),
        (PATCHES, "patches", made(0).astype(np.float16)),
        (PATCHES, "patches", np.full((3, ROWS, COLUMNS, 6), np.nan, np.float16)),
        (PATCHES, "patches", np.array("x")),
        (PLACES, "grid", None),
        (PLACES, "grid", np.array([COLUMNS, ROWS])),
        (PLACES, "grid", np.array([np.nan, 1])),
        (PLACES, "texts", None),
        (PLACES, "texts", np.frombuffer(b"[" * 100_000, np.uint8)),
        (PLACES, "texts", np.frombuffer(b'["/n/0.png"]', np.uint8)),
    ],
)
def test_files_that_do_not_fit_are_damage(tmp_path: Path, role: str, name: str, value: Any) -> None:
    files = kept(made(3), PATHS).save(tmp_path)
    with np.load(files[role]) as arrays:
        content = {**arrays, name: value}
    np.savez(files[role], **{key: array for key, array in content.items() if array is not None})
    with pytest.raises(ModelDamaged, match=r"(patches|places)\.npz"):
        EveryPatch.load(files)


def test_it_is_not_written_as_onnx() -> None:
    with pytest.raises(UsageError, match="keeps every patch cannot be written as ONNX; leave --with-scorer"):
        kept(made(3), PATHS).graph(None, "patches")  # type: ignore[arg-type]
