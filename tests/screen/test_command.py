from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anomscan.errors import UsageError
from anomscan.screen.command import Command

HOSTILE = [
    b"two  words.png",
    b"'quoted' \"twice\".png",
    b"$(touch harm) `touch harm`; touch harm & #.png",
    b"-rf.png",
    b"line\nbreak.png",
    b"caf\xe9.png",
    b"{score}.png",
    b"%s \\.png",
]


def record(folder: Path) -> str:
    """A command that writes its arguments to a file, one after another, each ended by NUL."""
    script = "import os,sys;open('seen','ab').write(b''.join(os.fsencode(a)+b'\\0' for a in sys.argv[1:]))"
    (folder / "record.py").write_text(script)
    return f"{sys.executable} {folder / 'record.py'}"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_one_word_whatever_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    words = " 'an image' {path} p={p_value}/{score} '{\"a\": 1}'"
    command = Command.parse(record(tmp_path) + words, 20)
    assert command.call(os.fsdecode(name), 1.5, 0.25) is None
    shown = b"./" + name if name.startswith(b"-") else name
    assert (tmp_path / "seen").read_bytes() == b"an image\0" + shown + b'\0p=0.25/1.5\0{"a": 1}\0'
    assert not (tmp_path / "harm").exists()


def test_an_empty_p_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Command.parse(f"{record(tmp_path)} [{{p_value}}]", 20).call("x", 1.5, None) is None
    assert (tmp_path / "seen").read_bytes() == b"[]\0"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "takes a command"),
        ("echo 'x", "No closing quotation"),
        ("echo {name}", "there is no {name}; choose from {path}, {score}, {p_value}"),
        ("echo {}", "there is no {}"),
        ("{path}", "there is no program called {path}"),
        ("no-such-program-here {path}", "there is no program called no-such-program-here"),
    ],
)
def test_a_command_that_cannot_be_is_bad_usage(text: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        Command.parse(text, 1)
    assert said in str(raised.value)


def test_one_that_fails_is_said() -> None:
    said = Command.parse("sh -c 'exit 7' {path}", 20).call("a\nb", 1, None)
    assert said == "--on-anomaly: sh for a\\nb failed: exit code 7"


def test_one_that_cannot_start_is_said(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    said = Command.parse(f"{program} {{path}}", 20).call("x", 1, None)
    assert said == "--on-anomaly: program for x could not be started: No such file or directory"


def test_one_that_takes_too_long_is_ended_with_all_it_started(tmp_path: Path) -> None:
    began = time.monotonic()
    script = f"(sleep 1.5; touch {tmp_path / 'late'}) & sleep 60"
    said = Command.parse(f"sh -c '{script}'", 0.3).call("x", 1, None)
    assert said == "--on-anomaly: sh for x took more than 0.3 s and was ended"
    assert time.monotonic() - began < 30
    time.sleep(1.6)
    assert not (tmp_path / "late").exists()


def test_an_interruption_ends_it_with_all_it_started(tmp_path: Path) -> None:
    """In a process of its own, which a signal ends while it waits."""
    late = tmp_path / "late"
    code = (
        "import signal, sys\nfrom anomscan.screen.command import Command\n"
        "signal.signal(signal.SIGALRM, lambda *_: sys.exit(7))\nsignal.setitimer(signal.ITIMER_REAL, 0.3)\n"
        f"Command.parse(\"sh -c '(sleep 1.5; touch {late}) & sleep 60'\", 20).call('x', 1, None)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 7
    time.sleep(1.8)
    assert not late.exists()


def test_what_it_prints_is_not_among_the_rows(capfd: pytest.CaptureFixture[str]) -> None:
    assert Command.parse("echo {path}", 20).call("x", 1, None) is None
    assert capfd.readouterr() == ("", "x\n")
