"""``score`` as a shell script sees it: rows, files, sentences, exit codes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from anomscan.report.rows import COLUMNS
from tests.cli.rows import rows
from tests.conftest import Run, draw


def test_score_prints_csv_and_nothing_else(run: Run, model_folder: Path, incoming: Path) -> None:
    done = run("score", incoming, "--model", model_folder, "--top", "4")
    assert (done.returncode, done.stderr) == (0, b"")
    ranked = rows(done.stdout)
    assert tuple(ranked[0]) == COLUMNS
    assert [row["rank"] for row in ranked] == ["1", "2", "3", "4"]
    assert all(row["p_value"] == row["anomalous"] == row["error"] == "" for row in ranked)


def test_an_unreadable_file_is_a_row_and_exit_code_3(run: Run, model_folder: Path, incoming: Path) -> None:
    (incoming / "0.png").write_bytes(b"broken")
    done = run("score", "incoming", "--top", "1", ANOMSCAN_MODEL=str(model_folder))
    assert done.returncode == 3
    assert [row["path"] for row in rows(done.stdout)][1:] == ["incoming/0.png"]
    assert rows(done.stdout)[1]["error"].startswith("not an image")
    assert done.stderr == b"1 of 6 files could not be read\n"


def test_json_lines_carry_the_same(run: Run, model_folder: Path, incoming: Path) -> None:
    as_csv = rows(run("score", incoming, "--model", model_folder).stdout)
    lines = run("score", incoming, "--model", model_folder, "--format", "jsonl").stdout.splitlines()
    as_json = [json.loads(line) for line in lines]
    plain = [{key: "" if value is None else str(value) for key, value in row.items()} for row in as_json]
    assert plain == as_csv


def test_the_output_file_appears_whole(run: Run, model_folder: Path, incoming: Path, tmp_path: Path) -> None:
    done = run("score", incoming, "--model", model_folder, "-o", "out.csv")
    assert (done.returncode, done.stdout) == (0, b"")
    assert len(rows((tmp_path / "out.csv").read_bytes())) == 6
    run("score", incoming, "--model", model_folder, "-o", "out.csv", "--k", "99")
    assert len(rows((tmp_path / "out.csv").read_bytes())) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["incoming", "out.csv"]


def test_any_name_goes_in_and_comes_out(run: Run, model_folder: Path, tmp_path: Path) -> None:
    names = [
        b"space and 'quotes\".png",
        b"comma,.png",
        b"line\nfeed.png",
        b"\xff.png",
        "🔩.png".encode(),
        b"=1.png",
        b"-x.png",
    ]
    for name in names:
        draw(1).save(tmp_path / "x.png")
        os.rename(tmp_path / "x.png", os.fsencode(tmp_path) + b"/" + name)
    walked = rows(run("score", ".", "--model", model_folder).stdout)
    assert sorted(os.fsencode(os.path.normpath(row["path"])) for row in walked) == sorted(names)
    listed = run("score", "-0", "-", "--model", model_folder, stdin=b"\0".join(names) + b"\0")
    assert sorted(os.fsencode(os.path.normpath(row["path"])) for row in rows(listed.stdout)) == sorted(names)
    lines = run("score", "-", "--model", model_folder, "--format", "jsonl", stdin="🔩.png\n\n".encode())
    assert [json.loads(line)["path"] for line in lines.stdout.splitlines()] == ["🔩.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ([], 2, "Missing argument"),
        (["incoming"], 1, "no model in anomscan-model; make one with 'anomscan adapt NORMAL_FOLDER'"),
        (["nowhere", "--model", "MODEL"], 1, "nowhere: No such file or directory"),
        (["empty", "--model", "MODEL"], 1, "no images to score"),
        (["incoming", "--model", "MODEL", "--top", "0"], 2, "for '--top'"),
        (["incoming", "--model", "MODEL", "-o", "/proc/x.csv"], 1, "cannot write /proc/x.csv"),
        (["incoming", "--model", "MODEL", "--format", "xml"], 2, "'xml' is not one of"),
        (["incoming", "--model", "MODEL", "--k", "21"], 1, "the largest possible --k is 20"),
        (["incoming", "--model", "TAMPERED"], 1, "checksum differs"),
        (["incoming", "--model", "NEWER"], 1, "written by a newer anomscan"),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    run: Run,
    model_folder: Path,
    incoming: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    sentence: str,
) -> None:
    (tmp_path / "empty").mkdir()
    tampered = Path(shutil.copytree(model_folder, tmp_path / "tampered"))
    with open(next(tampered.glob("index-*")), "ab") as file:
        file.write(b"!")
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "model.json").write_text('{"schema": 99, "anomscan": "7"}')
    folders = {"MODEL": model_folder, "TAMPERED": tampered, "NEWER": newer}
    done = run("score", *(folders.get(argument, argument) for argument in arguments))
    text = done.stderr.decode()
    assert (done.returncode, done.stdout) == (code, b""), text
    assert sentence in " ".join(text.replace("│", " ").split())
    assert "Traceback" not in text
    if code == 1:
        assert text.count("\n") == 1


def test_fpr_fills_p_value_and_anomalous(run: Run, calibrated_folder: Path, judged: Path) -> None:
    found = rows(run("score", judged, "--model", calibrated_folder, "--fpr", "0.1").stdout)
    assert {row["anomalous"] for row in found[:2]} == {"True"}
    assert all(row["anomalous"] == str(float(row["p_value"]) <= 0.1) for row in found)
    plain = rows(run("score", judged, "--model", calibrated_folder).stdout)
    assert [row["p_value"] for row in plain] == [row["p_value"] for row in found]
    assert {row["anomalous"] for row in plain} == {""}


def test_csv_and_json_lines_carry_the_same_decisions(run: Run, calibrated_folder: Path, judged: Path) -> None:
    arguments = ("score", ".", "--model", calibrated_folder, "--fdr", "0.5")
    as_csv = rows(run(*arguments, cwd=judged).stdout)
    lines = run(*arguments, "--format", "jsonl", cwd=judged).stdout.splitlines()
    as_json = [json.loads(line) for line in lines]
    plain = [{key: "" if value is None else str(value) for key, value in row.items()} for row in as_json]
    assert plain == as_csv
    named = run("score", "=odd.png", "--model", calibrated_folder, cwd=judged)
    assert [row["path"] for row in rows(named.stdout)] == ["./=odd.png"]
    assert (judged / rows(named.stdout)[0]["path"]).exists()


def test_a_normal_scored_again_is_never_anomalous(
    run: Run, calibrated_folder: Path, normal_folder: Path
) -> None:
    for option in ("--fpr", "--fdr"):
        done = run("score", normal_folder, "--model", calibrated_folder, option, "0.5", "--fail-on-anomaly")
        assert done.returncode == 0
        assert {(row["p_value"], row["anomalous"]) for row in rows(done.stdout)} == {("1.0", "False")}


def test_a_threshold_needs_no_calibration(run: Run, model_folder: Path, judged: Path) -> None:
    scores = [float(row["score"]) for row in rows(run("score", judged, "--model", model_folder).stdout)]
    arguments = ("score", judged, "--model", model_folder, "--threshold", str(scores[1]))
    plain = run(*arguments)
    assert [row["anomalous"] for row in rows(plain.stdout)] == ["True"] * 2 + ["False"] * 6
    assert plain.returncode == 0
    assert run(*arguments, "--fail-on-anomaly").returncode == 10
    (judged / "broken.png").touch()
    assert run(*arguments).returncode == 3
    assert run(*arguments, "--fail-on-anomaly").returncode == 10
    none = run("score", judged, "--model", model_folder, "--threshold", "9", "--fail-on-anomaly")
    assert none.returncode == 3
    assert none.stderr.decode().splitlines() == [
        "0 of 8 images are anomalous",
        "1 of 9 files could not be read",
    ]


def test_anomalous_files_are_moved_or_copied_and_nothing_is_overwritten(
    run: Run, calibrated_folder: Path, judged: Path, tmp_path: Path
) -> None:
    aside = tmp_path / "aside" / "today"
    decide = ("--model", calibrated_folder, "--fpr", "0.1")
    found = rows(run("score", judged, *decide, "--copy-anomalous", aside).stdout)
    called = {Path(row["path"]).name for row in found if row["anomalous"] == "True"}
    assert {"odd.png", "=odd.png"} <= called
    assert {path.name for path in aside.iterdir()} == called
    first = (aside / "odd.png").read_bytes()
    assert run("score", judged, *decide, "--copy-anomalous", aside).returncode == 0
    assert {path.name for path in aside.iterdir()} == called  # they are there already
    for path in judged.iterdir():
        os.utime(path, (1, 1))  # of another date it is another one
    assert run("score", judged, *decide, "--move-anomalous", aside).returncode == 0
    assert (aside / "odd.png").read_bytes() == (aside / "odd-1.png").read_bytes() == first
    assert len(list(aside.iterdir())) == 2 * len(called)
    assert not (judged / "odd.png").exists()


def test_the_summary(run: Run, calibrated_folder: Path, judged: Path, tmp_path: Path) -> None:
    (judged / "broken.png").touch()
    run("score", judged, "--model", calibrated_folder, "--fpr", "0.1", "--summary", "s.json")
    summary = json.loads((tmp_path / "s.json").read_text())
    info = json.loads(run("info", "--json", "--model", calibrated_folder).stdout)
    assert (summary["images"], summary["unreadable"], summary["held_out"]) == (9, 1, 10)
    assert summary["anomalous"] >= 2
    assert summary["decision"] == {"fpr": 0.1, "fdr": None, "threshold": None, "review": None}
    assert list(summary["quantiles"]) == ["0", "0.05", "0.25", "0.5", "0.75", "0.95", "1"]
    assert sorted(summary["quantiles"].values()) == list(summary["quantiles"].values())
    assert summary["drift"] is None
    assert summary["images_per_second"] > 0
    assert len(summary["model"]) == 16
    assert info["calibration"]["images"] == 10


def test_the_report(run: Run, calibrated_folder: Path, judged: Path, tmp_path: Path) -> None:
    done = run("score", judged, "--model", calibrated_folder, "--report", "r.html", "--top", "3")
    assert done.returncode == 0
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    shown = json.loads(text.split('id="data">', 1)[1].split("</script>", 1)[0])["rows"]
    assert [row["path"] for row in shown] == [row["path"] for row in rows(done.stdout)]
    assert len(shown) == 3


def test_a_batch_that_has_shifted_says_so(run: Run, calibrated_folder: Path, tmp_path: Path) -> None:
    for name, noise in (("same", 0), ("shifted", 60)):
        (tmp_path / name).mkdir()
        for seed in range(60):
            image = draw(1000 + seed)
            image.point([min(255, level + noise) for level in range(256)] * 3).save(
                tmp_path / name / f"{seed}.png"
            )
    arguments = ("--model", calibrated_folder, "--summary", "s.json", "-o", os.devnull, "--fpr", "0.1")
    same = run("score", "same", *arguments)
    assert b"shifted" not in same.stderr
    assert json.loads((tmp_path / "s.json").read_text())["drift"]["shifted"] is False
    shifted = run("score", "shifted", *arguments)
    assert shifted.stderr.decode().splitlines() == [
        "the whole batch has shifted: lamp, lens, or a new product? recalibrate"
    ]
    drift = json.loads((tmp_path / "s.json").read_text())["drift"]
    assert drift["shifted"]
    assert drift["p_value"] <= 0.01


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--fpr", "0.05"], 1, "--fpr 0.05 needs 19 held-out normals and the model has 10"),
        (["--fdr", "0.01"], 1, "--fdr 0.01 needs 99 held-out normals"),
        (["--fpr", "0.1", "--fdr", "0.1"], 2, "three ways to decide; choose one"),
        (["--fail-on-anomaly"], 2, "say so with --fpr, --fdr or --threshold"),
        (["--move-anomalous", "x"], 2, "say so with --fpr, --fdr or --threshold"),
        (["--fpr", "2"], 2, "--fpr"),
        (["--review", "0.3"], 2, "--review is a second limit beside --fpr, which is missing"),
        (["--fpr", "0.3", "--review", "0.2"], 2, "--review 0.2 must be larger than --fpr 0.3"),
        (["--fpr", "0.1", "--review", "0.15"], 1, "which tell steps of 9.1 %"),
        (["--fpr", "0.1", "--review", "2/day", "--per-day", "500"], 1, "cannot choose 0.4 % of the normals"),
        (["--fpr", "0.1", "--review", "0.3", "--per-day", "500"], 2, "share the budget of --review N/day"),
        (["--fpr", "0.1", "--review", "much"], 2, "--review takes a share of the normals, such as 0.2, or"),
        (["--fpr", "0.1", "--copy-review", "x"], 2, "say so with --review"),
        (["--fpr", "0.1", "--part-by", "prefx"], 2, "--part-by takes a rule by its name, or a regular"),
        (["--fpr", "0.1", "--report", "no/folder.html"], 1, "cannot write no/folder.html"),
        (["--fpr", "0.1", "--move-anomalous", "file"], 1, "to file: File exists"),
    ],
)
def test_what_goes_wrong_in_a_decision_is_one_sentence(
    run: Run,
    calibrated_folder: Path,
    judged: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    sentence: str,
) -> None:
    (tmp_path / "file").touch()
    done = run("score", judged, "--model", calibrated_folder, *arguments)
    text = " ".join(done.stderr.decode().replace("│", " ").split())
    assert (done.returncode, sentence in text, "Traceback" in text) == (code, True, False), text


def test_what_lies_between_two_limits_is_for_a_person(
    run: Run, calibrated_folder: Path, judged: Path, tmp_path: Path
) -> None:
    arguments = ("score", judged, "--model", calibrated_folder, "--fpr", "0.1", "--review", "0.6")
    done = run(*arguments, "--copy-review", "look", "--summary", "s.json", "--report", "r.html")
    found = rows(done.stdout)
    assert tuple(found[0]) == (*COLUMNS, "review")
    for row in found:
        p_value = float(row["p_value"])
        assert (row["anomalous"], row["review"]) == (str(p_value <= 0.1), str(0.1 < p_value <= 0.6))
    asked = {Path(row["path"]).name for row in found if row["review"] == "True"}
    assert asked
    assert {path.name for path in (tmp_path / "look").iterdir()} == asked
    summary = json.loads((tmp_path / "s.json").read_text())
    assert (summary["review"], round(summary["review_limit"], 6)) == (len(asked), round(6 / 11, 6))
    assert f"images are anomalous, {len(asked)} to review" in done.stderr.decode()
    assert "are to be looked at, with p-values up to 0.55." in (tmp_path / "r.html").read_text()
    lines = run(*arguments, "--format", "jsonl").stdout.splitlines()
    assert {json.loads(line)["review"] for line in lines} == {True, False}


def test_a_budget_chooses_the_second_limit(run: Run, calibrated_folder: Path, judged: Path) -> None:
    arguments = ("score", judged, "--model", calibrated_folder, "--fpr", "0.1", "--review")
    told = run(*arguments, "4/day", "--per-day", "20")
    assert {row["review"] for row in rows(told.stdout)} <= {"True", "False"}
    assert b"taken for a day" not in told.stderr
    own = run(*arguments, "4/day").stderr.decode()
    assert "the 8 of this run are taken for a day's; --per-day says otherwise" in own
    nothing = run(*arguments, "0.5/day").stderr.decode()
    assert "0.5/day chooses nothing: with 10 calibrating normals, each step is 0.727 a day" in nothing


def test_views_of_a_part_are_one_row_and_move_together(
    run: Run, calibrated_folder: Path, judged: Path, tmp_path: Path
) -> None:
    """The first part has three views, one of them odd; two others have one each."""
    shots = tmp_path / "shots"
    shots.mkdir()
    names = {"0.png": "a_left.png", "odd.png": "a_top.png", "1.png": "a-right.png", "2.png": "b_left.png"}
    for old, new in names.items():
        shutil.copy(judged / old, shots / new)
    (shots / "b_top.png").write_bytes(b"broken")
    arguments = ("score", "shots", "--model", calibrated_folder, "--part-by", "prefix", "--fpr", "0.3")
    done = run(
        *arguments, "--top", "1", "--report", "r.html", "--move-anomalous", "aside", "--summary", "s.json"
    )
    assert done.returncode == 3, done.stderr
    first, broken = rows(done.stdout)
    assert tuple(first) == (*COLUMNS, "part", "views", "judged_by")
    assert (first["path"], first["part"], first["anomalous"]) == ("shots/a_top.png", "shots/a", "True")
    assert set(json.loads(first["views"])) == {"shots/a_left.png", "shots/a_top.png", "shots/a-right.png"}
    assert first["judged_by"] == "3 views, Bonferroni: 0 held-out parts are too few"
    assert float(first["p_value"]) == 3 / 11
    assert (broken["path"], broken["part"]) == ("shots/b_top.png", "shots/b")
    assert {path.name for path in (tmp_path / "aside").iterdir()} == {
        "a_left.png",
        "a_top.png",
        "a-right.png",
    }
    assert "1 of 2 parts are anomalous" in done.stderr.decode()
    summary = json.loads((tmp_path / "s.json").read_text())
    assert (summary["parts"], summary["anomalous"], summary["images"]) == (2, 1, 5)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "part shots/a: 3 views, Bonferroni" in text
    assert '"title":"1 of 2 parts anomalous"' in text
