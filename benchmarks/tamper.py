"""Score by model folders that somebody has tampered with: each is refused in a sentence, or does no harm.

    python benchmarks/tamper.py --model MODEL --images IMAGES --work /tmp/tamper

A small model, of whole images and of patches, is copied and changed in one place, its checksums made right
again where that is not what is changed. ``score --report`` of every copy must end within ``SECONDS`` and
``MEMORY`` bytes: with exit code 1 and one sentence; or with the rows of the untouched model; or, where a case
is marked as another model (numbers that a model may have), with rows that are numbers. Files that are opened
outside of the folders given, of the report and of its own installation are a failure.

Each case runs in a fork of a process that has imported most of what it needs.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib
import io
import json
import math
import os
import shutil
import signal
import sys
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from anomscan.__main__ import main as anomscan

SECONDS, MEMORY = 5.0, 1_000_000_000
NORMALS: list[str] = []
"""Where those of the untouched model are, which a report may show."""
Data = dict[str, Any]
Change = Callable[[Path], object]
"""Of a model folder, or of a file."""
Turn = Callable[[onnx.ModelProto], object]
"""Of a network."""


@dataclass(frozen=True)
class Case:
    """A change of a model folder; ``another`` if what it makes is a model like any other."""

    name: str
    change: Change
    another: bool = False


def manifest(folder: Path) -> Data:
    """What ``model.json`` says."""
    found: Data = json.loads((folder / "model.json").read_text())
    return found


def file_of(folder: Path, role: str) -> Path:
    """The file of a role."""
    return folder / str(manifest(folder)["files"][role]["name"])


def put(folder: Path, role: str, content: bytes) -> None:
    """Replace the file of a role, and make its name and checksum right."""
    data = manifest(folder)
    old = folder / data["files"][role]["name"]
    digest = hashlib.sha256(content).hexdigest()
    name = f"{old.name.partition('-')[0]}-{digest[:16]}{old.suffix}"
    old.unlink()
    (folder / name).write_bytes(content)
    data["files"][role] = {"name": name, "sha256": digest}
    (folder / "model.json").write_text(json.dumps(data))


def of_bytes(role: str, change: Callable[[bytes], bytes]) -> Change:
    """Another content under a right checksum."""
    return lambda folder: put(folder, role, change(file_of(folder, role).read_bytes()))


def always(content: bytes) -> Callable[[bytes], bytes]:
    """The same, whatever it was."""
    return lambda _: content


def of_files(role: str, change: Change) -> Change:
    """Another thing in place of the file, without a checksum made right."""
    return lambda folder: change(file_of(folder, role))


def flipped(path: Path) -> None:
    """A bit is another."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def replaced(path: Path, make: Change) -> None:
    """Something else has the name."""
    path.unlink()
    make(path)


def swapped(role: str, other: str) -> Change:
    """A role that names the file of another one."""

    def change(folder: Path) -> None:
        data = manifest(folder)
        data["files"][role] = data["files"][other]
        (folder / "model.json").write_text(json.dumps(data))

    return change


def hidden_link(role: str) -> Change:
    """A link, to the very file, elsewhere: its checksum is right."""

    def change(folder: Path) -> None:
        path = file_of(folder, role)
        elsewhere = folder.parent / "elsewhere"
        shutil.copy(path, elsewhere)
        replaced(path, lambda place: place.symlink_to(elsewhere))

    return change


def edited(*keys: str, to: object) -> Change:
    """A field of ``model.json``."""

    def change(folder: Path) -> None:
        data = place = manifest(folder)
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to
        (folder / "model.json").write_text(json.dumps(data))

    return change


def text(change: Callable[[str], str]) -> Change:
    """``model.json`` as text."""
    return lambda folder: (folder / "model.json").write_text(change((folder / "model.json").read_text()))


def arrays(role: str, change: Callable[[Data], object]) -> Change:
    """The arrays of an ``.npz``."""

    def changed(content: bytes) -> bytes:
        with np.load(io.BytesIO(content)) as found:
            data: Data = dict(found)
        change(data)
        buffer = io.BytesIO()
        np.savez(buffer, **data)
        return buffer.getvalue()

    return of_bytes(role, changed)


def set_array(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Data], None]:
    """One of them."""

    def changed(data: Data) -> None:
        data[name] = change(data[name])

    return changed


def bomb(_: bytes) -> bytes:
    """More than a gigabyte of zeros in a megabyte of an ``.npz``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in ("features.npy", "scores.npy", "texts.npy", "patches.npy", "images.npy"):
            with archive.open(name, "w", force_zip64=True) as file:
                head = io.BytesIO()
                np.lib.format.write_array_header_1_0(
                    head, {"descr": "<f4", "fortran_order": False, "shape": (60, 1 << 20)}
                )
                file.write(head.getvalue())
                file.writelines(bytes(4 << 20) for _ in range(60))
    return buffer.getvalue()


def liar(_: bytes) -> bytes:
    """An array that says that it has far more values than there are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            head, {"descr": "<f4", "fortran_order": False, "shape": (1 << 44,)}
        )
        archive.writestr("features.npy", head.getvalue() + bytes(64))
    return buffer.getvalue()


def graph(change: Turn) -> Change:
    """The network."""

    def changed(content: bytes) -> bytes:
        model = onnx.load_from_string(content)
        change(model)
        written: bytes = model.SerializeToString()
        return written

    return of_bytes("extractor", changed)


def external(model: onnx.ModelProto) -> None:
    """A constant lies in another file."""
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "constant")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    model.graph.initializer.append(tensor)


def after(name: str, *nodes: onnx.NodeProto, constants: tuple[onnx.TensorProto, ...] = ()) -> Turn:
    """Let an output pass through further nodes, the first of which takes ``before``."""

    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            for i, output in enumerate(node.output):
                if output == name:
                    node.output[i] = "before"
        model.graph.initializer.extend(constants)
        model.graph.node.extend(nodes)

    return change


def constant(name: str, values: object, kind: type = np.int64) -> onnx.TensorProto:
    """A constant of a graph."""
    return numpy_helper.from_array(np.array(values, kind), name)


def expanded(*shape: int) -> Turn:
    """The features by way of a huge tensor."""
    return after(
        "image",
        helper.make_node("ReduceSum", ["before"], ["one"], keepdims=0),
        helper.make_node("Expand", ["one", "shape"], ["huge"]),
        helper.make_node("ReduceMean", ["huge"], ["mean"], keepdims=0),
        helper.make_node("Add", ["before", "mean"], ["image"]),
        constants=(constant("shape", shape),),
    )


def index(role: str, change: Callable[[bytearray], object]) -> Change:
    """The bytes of a FAISS index: kind, D, n (8 bytes), two dummies, trained, metric, count, vectors."""

    def changed(content: bytes) -> bytes:
        data = bytearray(content)
        change(data)
        return bytes(data)

    return of_bytes(role, changed)


def number(place: int, size: int, value: int) -> Callable[[bytearray], None]:
    """A number in the head of an index."""

    def change(data: bytearray) -> None:
        data[place : place + size] = value.to_bytes(size, "little", signed=value < 0)

    return change


def vectors(value: float) -> Callable[[bytearray], None]:
    """All vectors of an exact index."""

    def change(data: bytearray) -> None:
        start = 45
        data[start:] = np.full((len(data) - start) // 4, value, "<f4").tobytes()

    return change


def cases(folder: Path) -> Iterator[Case]:
    """Every change of a model like that of ``folder``."""
    data = manifest(folder)
    roles = list(data["files"])
    for role in roles:
        other = "calibration" if role != "calibration" else "scorer"
        of_role = {
            "a bit": of_files(role, flipped),
            "no file": of_files(role, Path.unlink),
            "a folder": of_files(role, lambda path: replaced(path, Path.mkdir)),
            "a pipe": of_files(role, lambda path: replaced(path, os.mkfifo)),
            "a link to passwd": of_files(
                role, lambda path: replaced(path, lambda p: p.symlink_to("/etc/passwd"))
            ),
            "a link to the same": hidden_link(role),
            "empty": of_bytes(role, lambda _: b""),
            "a half": of_bytes(role, lambda content: content[: len(content) // 2]),
            "noise": of_bytes(role, lambda content: np.random.default_rng(0).bytes(len(content))),
            "zeros": of_bytes(role, lambda content: bytes(len(content))),
            "another file": swapped(role, other),
        }
        for name, change in of_role.items():
            yield Case(f"{role}: {name}", change)
    for role in ("index", "patches"):
        for name, made in {
            "kind": number(0, 4, 0x41414141),
            "dim 1": number(4, 4, 1),
            "dim -1": number(4, 4, -1),
            "dim huge": number(4, 4, 2**31 - 1),
            "count 0": number(8, 8, 0),
            "count huge": number(8, 8, 2**62),
            "count -1": number(8, 8, -1),
            "not trained": number(32, 1, 0),
            "size huge": number(37, 8, 2**60),
            "nan": vectors(math.nan),
            "infinite": vectors(math.inf),
        }.items():
            yield Case(f"{role}: {name}", index(role, made), another=name in ("not trained",))
    for role in ("scorer", "calibration", "places", "held"):
        if role in roles:
            yield Case(f"{role}: bomb", of_bytes(role, bomb))
            yield Case(f"{role}: liar", of_bytes(role, liar))
            yield Case(f"{role}: objects", arrays(role, lambda d: d.update(evil=np.array([print], object))))
    altered: dict[str, Callable[[Data], object]] = {
        "no scores": lambda d: d.pop("scores"),
        "nan scores": set_array("scores", lambda a: a * np.nan),
        "few scores": set_array("scores", lambda a: a[:-1]),
        "square scores": set_array("scores", lambda a: a[None]),
        "text scores": set_array("scores", lambda a: a.astype("U9")),
        "narrow features": set_array("features", lambda a: a[:, :-1]),
        "flat features": set_array("features", np.ravel),
        "no features": set_array("features", lambda a: a[:0]),
        "whole features": set_array("features", lambda a: a.astype(np.int8)),
        "no texts": set_array("texts", lambda a: a[:0]),
        "a text": set_array("texts", lambda _: np.frombuffer(b'"ab"', np.uint8)),
        "numbers for texts": set_array("texts", lambda _: np.frombuffer(b"[[1], [2]]", np.uint8)),
        "few names": set_array("texts", lambda _: np.frombuffer(b'[["a"], ["b"]]', np.uint8)),
    }
    for name, alter in altered.items():
        yield Case(f"calibration: {name}", arrays("calibration", alter))
    for name, alter in {
        "images beyond": set_array("images", lambda a: a + 10_000),
        "images before": set_array("images", lambda a: a - 10_000),
        "images of floats": set_array("images", lambda a: a * np.nan),
        "few images": set_array("images", lambda a: a[:-1]),
        "places flat": set_array("places", np.ravel),
        "places beyond": set_array("places", lambda a: a + 10_000),
        "places before": set_array("places", lambda a: a - 10_000),
        "grid of none": set_array("grid", lambda a: a * 0),
        "grid huge": set_array("grid", lambda a: a + 2**40),
        "grid of three": set_array("grid", lambda _: np.arange(3)),
        "numbers for paths": set_array("texts", lambda _: np.frombuffer(b"[1, 2, 3]", np.uint8)),
    }.items():
        yield Case(f"places: {name}", arrays("places", alter))
    for name, content in {
        "numbers": b"[1, 2]",
        "an object": b"{}",
        "fewer": b'["/a"]',
        "more": json.dumps(["/a"] * 1000).encode(),
        "deep": b"[" * 100_000,
        "passwd": json.dumps(["/etc/passwd"] * 1000).encode(),
    }.items():
        yield Case(f"normals: {name}", of_bytes("normals", always(content)))
    turns: dict[str, Turn] = {
        "reads a file": external,
        "loops": lambda m: m.graph.node.append(helper.make_node("Loop", ["a", "b"], ["c"])),
        "a foreign operator": lambda m: m.graph.node.append(helper.make_node("E", [], ["e"], domain="x.y")),
        "an unknown operator": lambda m: m.graph.node.append(helper.make_node("Evil", [], ["e"])),
        "no output": lambda m: m.graph.ClearField("output"),
        "no input": lambda m: m.graph.ClearField("input"),
        "another output": lambda m: setattr(m.graph.output[0], "name", "patches2"),
        "a text": lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.STRING),
        "floats": lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT),
        "a larger input": lambda m: setattr(
            m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 4096
        ),
        "no number": after(
            "image",
            helper.make_node("Mul", ["before", "n"], ["image"]),
            constants=(constant("n", np.nan, np.float32),),
        ),
        "fewer images": after(
            "image",
            helper.make_node("ReduceSum", ["before", "n"], ["image"]),
            constants=(constant("n", [0]),),
        ),
        "no image": after("image", helper.make_node("ReduceSum", ["before"], ["image"], keepdims=0)),
        "fewer features": after(
            "image",
            helper.make_node("ReduceSum", ["before", "n"], ["image"]),
            constants=(constant("n", [1]),),
        ),
        "whole numbers": after(
            "image", helper.make_node("Cast", ["before"], ["image"], to=TensorProto.INT32)
        ),
        "flat patches": after("patches", helper.make_node("Flatten", ["before"], ["patches"])),
        "more channels": after(
            "patches", helper.make_node("Concat", ["before", "before"], ["patches"], axis=3)
        ),
        "more patches": after(
            "patches", helper.make_node("Concat", ["before", "before"], ["patches"], axis=1)
        ),
        "16 terabytes": expanded(1 << 42),
        "more than a number": expanded(1 << 31, 1 << 31),
    }
    for name, turned in turns.items():
        yield Case(f"extractor: {name}", graph(turned))
    reading = ("preprocessing", "reading")
    for keys, to in (
        (("schema",), 3), (("schema",), 10**9), (("schema",), -1), (("schema",), 1.5), (("schema",), None),
        (("preprocessing", "height"), 0), (("preprocessing", "height"), -64),
        (("preprocessing", "height"), 1 << 30), (("preprocessing", "width"), 32),
        (("preprocessing", "width"), "64"), (("preprocessing", "resample"), "evil"),
        (("preprocessing", "mean"), "no"), ((*reading, "max_pixels"), -1), ((*reading, "max_pixels"), 0),
        ((*reading, "max_pixels"), 1e300), ((*reading, "levels"), {"low": 5, "high": 5}),
        ((*reading, "levels"), {"low": 9, "high": 1}), ((*reading, "levels"), {"low": "a", "high": 1}),
        ((*reading, "part"), {"source": [0, 0], "box": [0, 0, 0, 0], "mask": ""}),
        ((*reading, "part"), {"source": [9, 9], "box": [5, 5, 9, 9], "mask": ""}),
        ((*reading, "part"), {"source": [9, 9], "box": [0, 0, 9, 9], "mask": "AAAA"}),
        ((*reading, "part"), {"source": [1 << 40, 1 << 40], "box": [0, 0, 1 << 40, 1 << 40], "mask": ""}),
        ((*reading, "part"), {"source": [-1, -1], "box": [-5, -5, 1, 1], "mask": ""}),
        (("scorer", "k"), 0), (("scorer", "k"), 10**6), (("scorer", "k"), -1),
        (("scorer", "name"), "evil"),
        (("scorer", "name"), "../x"), (("scorer", "metric"), "x"), (("scorer", "name"), "mahalanobis"),
        (("scorer", "name"), "samplewise"), (("scorer", "name"), "logit"), (("backbone", "dim"), 0),
        (("backbone", "dim"), "x"), (("patches", "looks"), "x"), (("patches", "dark"), "x"),
        (("patches", "dark"), 1e400), (("patches", "image"), {"mean": 0, "deviation": 0}),
        (("patches", "patch"), {"mean": 0, "deviation": 0}),
        (("patches", "patch"), {"mean": 0, "deviation": -1}),
        (("patches", "image"), None), (("patches", "weight"), "x"), (("patches", "most"), "x"),
        (("patches",), None),
        (("focus", "looks"), "x"), (("focus", "size"), "x"), (("focus", "measured"), []),
        (("files",), {}), (("files", "index", "name"), "../index-0123456789abcdef.faiss"),
        (("files", "index", "name"), "/etc/passwd"), (("files", "index", "sha256"), "0"),
        (("data", "root"), 5),
        (("data", "root"), "/"), (("data", "root"), "../.."), (("changes",), [{}]), (("calibration",), []),
        (("calibration", "groups"), -1), (("int8",), {}), (("method", "seed"), "x"), (("versions",), []),
    ):  # fmt: skip
        harmless_here = keys == ("patches",) and to is None
        yield Case(f"model.json: {'.'.join(keys)} {to!r}", edited(*keys, to=to), another=harmless_here)
    for name, turn in {
        "empty": lambda _: "",
        "a half": lambda content: content[: len(content) // 2],
        "deep": lambda _: "[" * 1_000_000,
        "nan": lambda content: content.replace('"seed": 0', '"seed": NaN'),
        "a long number": lambda content: content.replace('"seed": 0', '"seed": ' + "9" * 5000),
        "150 MB": lambda content: content[:-1] + ', "more": "' + "x" * 150_000_000 + '"}',
    }.items():
        yield Case(f"model.json: {name}", text(turn))


def score(model: Path, images: Path, work: Path) -> tuple[int, list[Data], str, float, int]:
    """Exit code, rows, standard error, seconds of a core and the peak of memory of a fork that scores."""
    out, said, page = work / "out.csv", work / "stderr", work / "report.html"
    for path in (out, said, page):
        path.unlink(missing_ok=True)
    began = time.monotonic()
    child = os.fork()
    if not child:
        _in_the_child(model, images, out, said, page)
    ended = status = 0
    while not ended and time.monotonic() - began < 12 * SECONDS:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        time.sleep(0.005)
    if not ended:
        os.kill(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
    rows: list[Data] = []
    if out.exists():
        with open(out, newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
    spoken = said.read_text(errors="replace")
    seconds = usage.ru_utime + usage.ru_stime if ended else time.monotonic() - began
    return os.waitstatus_to_exitcode(status), rows, spoken, seconds, usage.ru_maxrss * 1024


def _in_the_child(model: Path, images: Path, out: Path, said: Path, page: Path) -> None:
    error = os.open(said, os.O_WRONLY | os.O_CREAT)
    os.dup2(error, 2)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    allowed = (
        *(
            os.path.realpath(place)
            for place in (
                model,
                images,
                NORMALS[0],
                out.parent,
                sys.prefix,
                sys.base_prefix,
                Path(__file__).parents[1],
            )
        ),
        *("/proc", "/sys", "/dev", "/usr", "/lib", "/etc/localtime", "/etc/mime.types"),
    )

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.realpath(os.path.join(os.getcwd(), os.fsdecode(arguments[0])))
            if not path.startswith(allowed):
                os.write(2, f"OPENED {path}\n".encode())

    sys.addaudithook(watch)
    sys.argv = ["anomscan", "score", str(images), "--model", str(model), "-o", str(out), "--threads", "1"]
    sys.argv += ["--report", str(page)]
    code = 70
    try:
        anomscan()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 71
    except BaseException:
        traceback.print_exc()
    finally:  # nothing of whoever forked may go on here
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def judged(case: Case, result: tuple[int, list[Data], str, float, int], before: list[Data]) -> str:
    """What became of a case: ``refused``, ``harmless``, ``another model``, or what is wrong."""
    code, rows, said, seconds, memory = result
    lines = said.strip().splitlines()
    if seconds > SECONDS or memory > MEMORY:
        return f"FAILED: {seconds:.1f} s, {memory / 1e6:.0f} MB"
    if "OPENED" in said:
        return f"FAILED: {lines[0]}"
    if code == 1:
        plain = len(lines) == 1 and lines[0].startswith("anomscan: ") and not rows
        return "refused" if plain else f"FAILED: {' / '.join(lines[-2:])}"
    if code != 0:
        return f"FAILED: exit {code} {' / '.join(lines[-2:])}"
    same = [(row["path"], row["score"], row["p_value"]) for row in rows]
    if same == [(row["path"], row["score"], row["p_value"]) for row in before]:
        return "harmless"
    numbers = all(math.isfinite(float(row["score"])) for row in rows)
    return "another model" if case.another and numbers else "FAILED: scored otherwise"


def run(model: Path, images: Path, work: Path, every: int = 1, start: int = 0) -> dict[str, str]:
    """What became of every so many-th case, by its name."""
    for module in ("cli.console", "images.decode", "report.rows"):  # not onnxruntime, which starts threads
        importlib.import_module(f"anomscan.{module}")
    work.mkdir(parents=True, exist_ok=True)
    NORMALS[:] = [manifest(model)["data"]["root"]]
    code, before, said, *_ = score(model, images, work)
    assert code == 0, said
    found = {}
    for case in list(cases(model))[start::every]:
        copy = work / "model"
        for left in (copy, work / "elsewhere"):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        shutil.copytree(model, copy)
        case.change(copy)
        result = score(copy, images, work)
        found[case.name] = judged(case, result, before)
        print(f"{case.name[:60]:60} {result[3]:5.2f} s  {found[case.name]}", flush=True)
        if found[case.name] == "refused":
            print(f"    {result[2].strip()[:140]}", flush=True)
    return found


def main() -> None:
    """Run every case and count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="an untouched one, with patches")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="take one case in so many")
    parser.add_argument("--start", type=int, default=0, help="and begin with this one")
    arguments = parser.parse_args()
    found = run(arguments.model, arguments.images, arguments.work, arguments.every, arguments.start)
    failed = [name for name, what in found.items() if what.startswith("FAILED")]
    for what in ("refused", "harmless", "another model"):
        print(f"{sum(value == what for value in found.values()):4} {what}")
    print(f"{len(failed):4} failed: {failed}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
