"""Whether two versions of anomscan give byte-identical rows, from model to CSV.

    python benchmarks/same_rows.py REVISION

builds models of ``sample_data`` by five methods with the code of REVISION and with this checkout, in the same
environment, and compares three ways of scoring ``sample_data/incoming``: old model and old code, old model
and this code, this model and this code; with ``--fpr``, as CSV and as JSON lines, exit codes included. Then
it prints what a cold start costs, a process that scores one image with the old model: the median over 21
turns of this code's user and system time over the old one's; and the same of what 639 more images cost, over
9 turns. ``--costs`` does that only.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
MODELS = {
    "rooted": ["adapt", "--method", "none"],
    "none": ["adapt", "--method", "none", "--scorer", "knn"],
    "stages": ["adapt", "--method", "stages", "--scorer", "knn"],
    "panda-ses": ["adapt", "--method", "panda-ses", "--steps", "10"],
    "mahalanobis": ["index", "--scorer", "mahalanobis"],
}

STARTS, RUNS, COPIES = 21, 9, 10
WHOLE_IMAGES = {"rooted": ["--focus", "image"]}
"""What this version needs to look at what versions before 0.3 looked at."""


def anomscan(code: Path, *arguments: str | Path) -> int:
    """Run the command line of the checkout ``code`` on the sample data of this one; returns its exit code."""
    environment = {**os.environ, "PYTHONPATH": str(code)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its byte code
    return subprocess.run(
        [sys.executable, "-P", "-m", "anomscan", *arguments],
        env=environment,
        cwd=HERE,
        stderr=subprocess.DEVNULL,
        check=False,
    ).returncode


def rows(code: Path, model: Path, form: str, folder: Path) -> tuple[int, bytes]:
    """Exit code and bytes of the rows of the incoming samples."""
    out = folder / "rows"
    out.unlink(missing_ok=True)
    arguments = ("score", "sample_data/incoming", "--model", model, "--fpr", "0.1", "--format", form)
    return anomscan(code, *arguments, "-o", out), out.read_bytes()


def seconds(code: Path, model: Path, images: Path) -> float:
    """User and system time of a process that scores an image or a folder of them."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    if anomscan(code, "score", images, "--model", model, "-o", os.devnull):
        sys.exit(f"{images} was not scored")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def costs(old: Path, model: Path, folder: Path) -> str:
    """What starts and images cost, old and new in turn; the first of each compiles and does not count."""
    images = [image for image in (HERE / "sample_data/incoming").glob("*.jpg") if "003" not in image.name]
    (folder / "many").mkdir()
    for image in images:
        for copy in range(COPIES):
            (folder / "many" / f"{image.stem}-{copy}.jpg").symlink_to(image)

    def turns(what: Path, count: int) -> list[tuple[float, float]]:
        return [(seconds(HERE, model, what), seconds(old, model, what)) for _ in range(count)]

    starts = turns(images[0], STARTS + 1)[1:]
    new, before = (statistics.median(times) for times in zip(*starts, strict=True))
    ratio = statistics.median(a / b for a, b in starts)
    start = f"cold start: {new:.3f} s of a core, {ratio:.3f} of the old one's {before:.3f} s"
    more = [(a - new, b - before) for a, b in turns(folder / "many", RUNS)]
    ours, theirs = (
        1e3 * statistics.median(times) / (len(images) * COPIES - 1) for times in zip(*more, strict=True)
    )
    ratio = statistics.median(a / b for a, b in more)
    return f"{start}\nan image: {ours:.2f} ms of a core, {ratio:.3f} of the old one's {theirs:.2f} ms"


def main() -> None:
    """Compare; exits with 1 where anything differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("revision", help="a commit of this repository, such as HEAD~1")
    parser.add_argument("--size", default="96", help="side of the network's input in pixels [96]")
    parser.add_argument("--costs", action="store_true", help="only what starts and images cost")
    arguments = parser.parse_args()
    differences, models_of = 0, {"rooted": MODELS["rooted"]} if arguments.costs else MODELS
    with tempfile.TemporaryDirectory() as scratch:
        folder, old = Path(scratch), Path(scratch, "old")
        subprocess.run(["git", "clone", "--quiet", HERE, old], check=True)
        subprocess.run(["git", "checkout", "--quiet", arguments.revision], cwd=old, check=True)
        for name, (verb, *options) in models_of.items():
            models = {code: folder / f"{name}-{number}" for number, code in enumerate((old, HERE))}
            for code, model in models.items():
                focus = WHOLE_IMAGES.get(name, []) if code == HERE else []
                folders = ("sample_data/normal", "--model", model, "--size", arguments.size)
                anomscan(code, verb, *folders, *options, *focus)
            for form in () if arguments.costs else ("csv", "jsonl"):
                before = rows(old, models[old], form, folder)
                for what, now in (
                    ("old model, this code", rows(HERE, models[old], form, folder)),
                    ("this model, this code", rows(HERE, models[HERE], form, folder)),
                ):
                    same = now == before
                    differences += not same
                    print(f"{name}, {form}, {what}: {'same' if same else 'DIFFERENT'}", flush=True)
        print(costs(old, folder / "rooted-0", folder))
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
