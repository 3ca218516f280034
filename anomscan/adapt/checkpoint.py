"""The state of a training run on the disk, from which the same command goes on after it was killed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from anomscan.files.atomic import sync
from anomscan.files.parts import part_in

EVERY = 20.0
"""Seconds of training between two checkpoints, at least."""
DEAREST = 0.01
"""Share of the time that writing them may take, at most."""

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class State:
    """A training run after ``step`` steps, of which the last had that loss, and ``seconds`` of training.

    ``tensors`` by name; ``watch`` is what a stopping rule adds, as JSON has it.
    """

    step: int
    loss: float
    seconds: float
    tensors: Tensors
    watch: Any = None


@dataclass
class Checkpoint:
    """One file, which the newest state replaces; without pickle.

    Args:
        file: where; in a folder that is there and that nobody else writes.
        settings: what the training depends on, by how a person calls it; values as JSON has them.
        say: tells a person something.
    """

    file: Path
    settings: Mapping[str, object]
    say: Callable[[str], None]
    step: int | None = None
    """That of the state in the file, where this run wrote or took it."""
    _last: float = field(default_factory=time.monotonic)
    _cost: float = 0.0

    def load(self) -> State | None:
        """The state of a run with the same settings; None where there is none. Says what it found."""
        self._last = time.monotonic()
        if not self.file.exists():
            return None
        try:
            with safe_open(self.file, "pt") as content:
                run = json.loads((content.metadata() or {})["run"])
                tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            self.say(f"the checkpoint of a run that was cut off cannot be read, starting anew: {error}")
            return None
        before, now = run.pop("settings"), json.loads(json.dumps(dict(self.settings)))
        other = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if other:
            self.say(f"starting anew: a run that was cut off had another {' and another '.join(other)}")
            return None
        self.say(f"going on after step {run['step']} of a run that was cut off")
        self.step = run["step"]
        return State(tensors=tensors, **run)

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next: seldom enough that writing them costs little."""
        return time.monotonic() - self._last >= max(EVERY, self._cost / DEAREST)

    def save(self, state: State) -> None:
        """Replace the file, once the new one is on the disk; where that cannot be, say so and do without."""
        began = time.monotonic()
        run = {"step": state.step, "loss": state.loss, "seconds": state.seconds, "watch": state.watch}
        metadata = {"run": json.dumps({"settings": dict(self.settings), **run})}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
        try:
            with part_in(self.file.parent) as part:
                part.write_bytes(safetensors.torch.save(tensors, metadata))
                sync(part)
                part.replace(self.file)
                sync(self.file.parent)
        except OSError as error:
            self.say(f"no checkpoint is kept: {error.strerror or error}")
            self._cost = float("inf")
            return
        self.step = state.step
        self._last = time.monotonic()
        self._cost = self._last - began

    def drop(self) -> None:
        """Remove the file: nobody is to go on from there."""
        self.file.unlink(missing_ok=True)
        self.step = None
