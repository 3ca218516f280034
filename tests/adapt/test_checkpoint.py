from __future__ import annotations

import errno
import math
from pathlib import Path

import pytest
import torch

from anomscan.adapt import checkpoint as module
from anomscan.adapt.checkpoint import Checkpoint, State

SETTINGS = {"--seed": 1, "--method": "msc", "sizes": (1, 2)}
STATE = State(7, 0.25, 3.5, {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(())}, {"chosen": 4})


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def kept(tmp_path: Path, said: list[str]) -> Checkpoint:
    return Checkpoint(tmp_path / ".checkpoint", SETTINGS, said.append)


def test_a_state_comes_back(kept: Checkpoint, said: list[str]) -> None:
    assert kept.load() is None
    kept.save(STATE)
    kept.save(STATE)
    found = kept.load()
    assert found is not None
    assert kept.step == 7
    assert (found.step, found.loss, found.seconds, found.watch) == (7, 0.25, 3.5, {"chosen": 4})
    assert found.tensors.keys() == STATE.tensors.keys()
    for name, tensor in found.tensors.items():
        assert torch.equal(tensor, STATE.tensors[name])
    assert said == ["going on after step 7 of a run that was cut off"]
    assert [path.name for path in kept.file.parent.iterdir()] == [".checkpoint"]
    kept.drop()
    kept.drop()
    assert kept.load() is None
    assert kept.step is None


def test_other_settings_start_anew_and_are_named(kept: Checkpoint, said: list[str]) -> None:
    kept.save(STATE)
    other = Checkpoint(kept.file, {**SETTINGS, "--seed": 2, "normal images": "x"}, said.append)
    assert other.load() is None
    assert said == ["starting anew: a run that was cut off had another --seed and another normal images"]


@pytest.mark.parametrize("content", [b"", b"nothing of the kind", bytes(100)])
def test_one_that_cannot_be_read_starts_anew(kept: Checkpoint, said: list[str], content: bytes) -> None:
    kept.file.write_bytes(content)
    assert kept.load() is None
    (line,) = said
    assert "cannot be read, starting anew" in line
    assert "\n" not in line


def test_it_is_due_seldom_enough_to_cost_little(kept: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    time = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: time[0])
    kept.load()  # as training begins
    for seconds, due in ((19.9, False), (20.0, True)):
        time[0] = 1000 + seconds
        assert kept.is_due == due

    def slow(_: Path) -> None:
        time[0] += 1.0

    monkeypatch.setattr(module, "sync", slow)
    kept.save(STATE)  # takes 2 seconds
    for seconds, due in ((199.0, False), (201.0, True)):
        time[0] = 1022 + seconds
        assert kept.is_due == due


def test_without_room_it_is_done_without(
    kept: Checkpoint, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "sync", full)
    monkeypatch.setattr(module, "EVERY", 0.0)
    kept.save(STATE)
    assert said == ["no checkpoint is kept: No space left on device"]
    assert not kept.is_due
    assert math.isinf(kept._cost)
    assert list(kept.file.parent.iterdir()) == []
