"""All four roles over the protocol of S3, spoken with a server on this machine, through a line that drops."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from anomscan.fit.embed import by, embed
from anomscan.fit.normals import HELD_OUT, Normals
from anomscan.model.folder import read_manifest, verified
from anomscan.model.manifest import HoldOut
from anomscan.network.extractor import Extractor
from anomscan.network.network import EXTRACTOR
from tests.cli.rows import rows
from tests.conftest import Run, draw, draw_odd, silent

pytestmark = pytest.mark.skipif(
    find_spec("moto") is None or find_spec("s3fs") is None, reason="moto[server] and s3fs are not installed"
)
HOST, BUCKET = "127.0.0.1", "line"
HEADERS = {
    "Content-Type": "application/octet-stream",
    "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0",
}
"""What a signed request has; the server does not look at the signature."""


def free_port() -> int:
    with closing(socket.create_server((HOST, 0))) as server:
        return int(server.getsockname()[1])


def request(port: int, method: str, path: str = "", content: bytes | None = None) -> bytes:
    where = f"http://{HOST}:{port}/{BUCKET}/{urllib.parse.quote(path)}"
    asked = urllib.request.Request(where, content, HEADERS, method=method)
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return bytes(answer.read())


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """The port of a storage with one bucket."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            with suppress(OSError):
                request(port, "PUT")
                break
            assert process.poll() is None
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(30)


class Line:
    """Passes connections on to a server; cuts the first ``drops`` of them, some within an answer."""

    def __init__(self, port: int, drops: float) -> None:
        self._port, self._drops, self.connections = port, drops, 0
        self._server = socket.create_server((HOST, 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                self.connections += 1
                cut = self.connections <= self._drops
                if cut and self.connections % 2:
                    near.shutdown(socket.SHUT_RDWR)
                    near.close()
                else:
                    threading.Thread(target=self._pass, args=(near, cut), daemon=True).start()

    def _pass(self, near: socket.socket, cut: bool) -> None:
        far = socket.create_connection((HOST, self._port))
        threading.Thread(target=self._copy, args=(near, far, None), daemon=True).start()
        self._copy(far, near, 200 if cut else None)
        for end in (near, far):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    @staticmethod
    def _copy(one: socket.socket, other: socket.socket, most: int | None) -> None:
        with suppress(OSError):
            while content := one.recv(most or 1 << 16):
                other.sendall(content)
                if most is not None:
                    return


def environment(port: int, tmp_path: Path) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, normal_folder: Path, server: int) -> Path:
    """Normals and incoming images, here and in the bucket."""
    folder = tmp_path_factory.mktemp("s3")
    (folder / "normal").symlink_to(normal_folder)
    (folder / "incoming" / "sub dir").mkdir(parents=True)
    for seed in range(8):
        draw(seed + 50).save(folder / "incoming" / "sub dir" / f"{seed} ü.png")
    draw_odd(90).save(folder / "incoming" / "odd.png")
    (folder / "incoming" / "broken.png").write_bytes(b"broken")
    for path in (*normal_folder.iterdir(), *(folder / "incoming").rglob("*.png")):
        inside = path.relative_to(folder) if path.is_relative_to(folder) else f"normal/{path.name}"
        request(server, "PUT", str(inside), path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def models(line: Path, server: int, small: Any) -> Path:
    """A model of the normals in the bucket, in the bucket, and a copy of it here."""
    network = ("--backbone", small.name, "--weights", small.weights, "--size", str(small.size))
    subprocess.run(
        [
            *(sys.executable, "-m", "anomscan", "index", f"s3://{BUCKET}/normal"),
            *("--model", f"s3://{BUCKET}/model", "--focus", "image", *network),
        ],
        env={**os.environ, **environment(server, line)},
        capture_output=True,
        check=True,
    )
    manifest = request(server, "GET", "model/model.json")
    (line / "model").mkdir()
    (line / "model" / "model.json").write_bytes(manifest)
    for file in json.loads(manifest)["files"].values():
        (line / "model" / file["name"]).write_bytes(request(server, "GET", f"model/{file['name']}"))
    return line


@pytest.mark.parametrize("drops", [0, 7])
def test_all_four_roles_give_the_rows_of_local_files(
    run: Run, models: Path, server: int, tmp_path: Path, drops: int
) -> None:
    local = run("score", models / "incoming", "--model", models / "model")
    assert local.returncode == 3
    with closing(Line(server, drops)) as between:
        done = run(
            *("score", f"s3://{BUCKET}/incoming", "--model", f"s3://{BUCKET}/model"),
            *("-o", f"s3://{BUCKET}/{drops}.csv"),
            **environment(between.port, tmp_path),
        )
        assert between.connections > drops
    assert (done.returncode, done.stderr) == (3, local.stderr)
    written = request(server, "GET", f"{drops}.csv")
    assert len(rows(written)) == 10
    incoming = os.fsencode(models / "incoming")
    assert written.replace(f"s3://{BUCKET}/incoming".encode(), incoming) == local.stdout


def test_the_model_is_that_of_the_same_normals_on_this_disk(models: Path) -> None:
    """The fingerprint is over their relative paths and pixels."""
    manifest = read_manifest(str(models / "model"))
    extractor = Extractor(verified(str(models / "model"), manifest, EXTRACTOR), 1)
    root = str(models / "normal")
    normals = Normals.find(root).split(HoldOut(HELD_OUT), manifest.method.seed)
    here = embed("", root, normals.sources, by(extractor, manifest.preprocessing), silent)
    assert here.fingerprint == manifest.data.fingerprint
    assert manifest.data.root == f"s3://{BUCKET}/normal"


def test_a_storage_that_stays_away_is_one_sentence_or_a_row_each(
    run: Run, models: Path, server: int, tmp_path: Path
) -> None:
    with closing(Line(server, float("inf"))) as between:
        variables = environment(between.port, tmp_path)
        done = run("score", models / "incoming", "--model", f"s3://{BUCKET}/model", **variables)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
        assert b"the storage cannot be reached" in done.stderr
        names = "".join(f"s3://{BUCKET}/incoming/{name}.png\n" for name in ("odd", "broken", "none"))
        done = run("score", "-", "--model", models / "model", stdin=names.encode(), **variables)
    assert done.returncode == 3
    assert all(row["error"].startswith("the storage cannot be reached") for row in rows(done.stdout))
    assert len(rows(done.stdout)) == 3


def test_a_bucket_that_is_not_there_is_one_sentence(
    run: Run, models: Path, server: int, tmp_path: Path
) -> None:
    for command in (
        ("score", "s3://nowhere/incoming", "--model", models / "model"),
        ("score", models / "incoming", "--model", models / "model", "-o", "s3://nowhere/rows.csv"),
    ):
        done = run(*command, **environment(server, tmp_path))
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
        assert b"s3://nowhere" in done.stderr
