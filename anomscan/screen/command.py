"""A command of the user's, called for an anomalous image, without a shell."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from dataclasses import dataclass
from typing import Self

from anomscan.errors import UsageError
from anomscan.text import plain_path, printable

PLACEHOLDERS = ("path", "score", "p_value")
_PLACEHOLDER = re.compile(r"\{(\w*)\}")


@dataclass(frozen=True)
class Command:
    """The words of a command, in which ``PLACEHOLDERS`` stand in braces, and how many seconds it may take."""

    words: tuple[str, ...]
    seconds: float

    @classmethod
    def parse(cls, text: str, seconds: float) -> Self:
        """Split ``text`` once as a shell would; what an image is called is never split nor looked into.

        Raises:
            UsageError: it is no command, its program is not there, or it has another placeholder.
        """
        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise UsageError(f"--on-anomaly: {error}") from error
        if not words:
            raise UsageError("--on-anomaly takes a command, such as 'stop-line {path}'")
        for name in (name for word in words for name in _PLACEHOLDER.findall(word)):
            if name not in PLACEHOLDERS:
                known = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
                raise UsageError(f"--on-anomaly: there is no {{{name}}}; choose from {known}")
        if _PLACEHOLDER.search(words[0]) or shutil.which(words[0]) is None:
            raise UsageError(f"--on-anomaly: there is no program called {printable(words[0])}")
        return cls(words, seconds)

    def call(self, path: str, score: float | None, p_value: float | None) -> str | None:
        """Run it for an image and wait; what it prints goes to standard error.

        Returns:
            What is wrong, in a sentence, or None. One that takes too long is ended, with all that it started.
        """
        values = {
            "path": plain_path(path),
            "score": "" if score is None else str(score),
            "p_value": "" if p_value is None else str(p_value),
        }
        words = [_PLACEHOLDER.sub(lambda found: values[found[1]], word) for word in self.words]
        what = f"--on-anomaly: {printable(os.path.basename(self.words[0]))} for {printable(path)}"
        try:
            process = subprocess.Popen(  # noqa: S603 - it is the user's, and there is no shell
                words, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True
            )
        except (OSError, ValueError) as error:
            return f"{what} could not be started: {getattr(error, 'strerror', None) or error}"
        try:
            code = process.wait(self.seconds)
        except BaseException as end:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(end, subprocess.TimeoutExpired):
                return f"{what} took more than {self.seconds:g} s and was ended"
            raise
        return None if code == 0 else f"{what} failed: exit code {code}"
