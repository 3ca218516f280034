from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from anomscan.adapt.options import AdaptOptions, BackboneChoice, FocusChoice
from anomscan.errors import InputError, ModelDamaged, ModelNotFound, ModelTooNew, NoImages, UsageError
from anomscan.fit import rejects as module
from anomscan.fit.adapt import adapt
from anomscan.fit.build import Fitted
from anomscan.fit.embed import Embedded
from anomscan.fit.export_scored import ScoredOptions, export_scored
from anomscan.fit.feedback import add, calibrate, remove
from anomscan.fit.held_out import HeldOut, Kept
from anomscan.fit.index import IndexOptions, index
from anomscan.fit.look import Gathering
from anomscan.fit.rejects import OddPatches, cells_under, reject, unreject
from anomscan.images.find import find
from anomscan.images.tiling import TileChoice
from anomscan.model import manifest as manifests
from anomscan.model.folder import MANIFEST, read_manifest
from anomscan.model.manifest import ALL, HoldOut
from anomscan.model.model import read_model
from anomscan.report.rows import Row
from anomscan.scoring.bank import Bank
from anomscan.scoring.base import Scorer
from anomscan.scoring.focused import Focused
from anomscan.scoring.info import Looks, ScorerInfo
from anomscan.scoring.knn import Knn
from anomscan.scoring.rejects import Rejects
from anomscan.screen.run import ScoreJob, run
from anomscan.types import Outputs, Part, Reading
from tests.conftest import Fit, draw, fake_model, silent
from tests.fit.conftest import stained_images


@pytest.fixture
def stained(tmp_path: Path) -> list[str]:
    """Images that are like the normals but for a faint red cell."""
    return stained_images(tmp_path, 4, (215, 150, 150))


def scored(folder: Path, paths: list[str]) -> list[Row]:
    """Rows in the order of ``paths``."""
    with run(ScoreJob(find(paths), read_model(str(folder), 1)), silent) as outcome:
        rows = {row.path: row for row in outcome.ranking.rows()}
    return [rows[path] for path in paths]


def scores(folder: Path, paths: list[str]) -> list[float]:
    return [row.score or 0.0 for row in scored(folder, paths)]


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a model but the lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def every(normals: Path, folder: Path, looks: Looks = "both") -> Path:
    """A model by which all of the normals calibrate."""
    fake_model(normals, folder, ALL, looks=looks)
    return folder


def calibrates_by_what_scores(folder: Path) -> bool:
    """Whether the scores of held-out normals are those that incoming images get."""
    model = read_model(str(folder), 1)
    assert model.calibration is not None
    found = scores(folder, model.calibration.paths)
    return bool(np.allclose(found, model.calibration.scores, rtol=1e-4, atol=1e-4))


@pytest.mark.parametrize("looks", ["image", "patch", "both"])
def test_what_is_like_a_missed_anomaly_scores_higher(
    looks: Looks, normal_folder: Path, stained: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    fake_model(normal_folder, folder, 0.5, looks=looks)
    draw(990).save(tmp_path / "good.png")
    before, good = scores(folder, stained), scores(folder, [str(tmp_path / "good.png")])
    fitted = reject(stained[:1], str(folder), silent)
    after = scores(folder, stained)
    if looks == "image":
        assert after[0] > 1.2 * before[0], "the reject itself"
        assert all(now >= then for now, then in zip(after, before, strict=True))
    else:
        assert all(now > then + 0.2 for now, then in zip(after, before, strict=True))
    assert scores(folder, [str(tmp_path / "good.png")]) == good, "it is like none"
    assert calibrates_by_what_scores(folder)
    manifest = fitted.manifest
    assert manifest.rejects is not None
    assert manifest.rejects.images == 1
    assert (manifest.rejects.patches > 0) == (looks != "image")
    assert [(change.action, change.paths) for change in manifest.changes] == [("rejected", stained[:1])]
    assert "rejects" in manifest.files


@pytest.mark.parametrize("looks", ["image", "both"])
def test_a_model_without_rejects_is_what_it_was_byte_for_byte(
    looks: Looks, normal_folder: Path, stained: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    fake_model(normal_folder, folder, 0.5, looks=looks)
    before = content(folder)
    assert b"reject" not in before[MANIFEST]
    reject(stained[:2], str(folder), silent)
    assert content(folder).keys() != before.keys()
    unreject(stained[:1], str(folder))
    unreject([stained[1]], str(folder))
    after = content(folder)
    assert {name: after[name] for name in before if name != MANIFEST} == {
        name: before[name] for name in before if name != MANIFEST
    }
    manifest, old = json.loads(after[MANIFEST]), json.loads(before[MANIFEST])
    assert [change["action"] for change in manifest.pop("changes")] == [
        "rejected",
        "unrejected",
        "unrejected",
    ]
    assert (manifest.pop("schema"), old.pop("changes")) == (3, [])
    del old["schema"]
    assert manifest == old


def test_an_older_version_refuses_it_in_a_sentence(
    patchy: Path, stained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_manifest(str(patchy)).schema == 2
    reject(stained[:1], str(patchy), silent)
    monkeypatch.setattr(manifests, "SCHEMA", 2)
    with pytest.raises(ModelTooNew, match="newer anomscan"):
        read_model(str(patchy), 1)
    monkeypatch.undo()
    unreject(stained[:1], str(patchy))
    assert read_manifest(str(patchy)).schema == 3, "its log speaks of rejects"


def test_rejects_come_one_after_the_other_and_are_read_again(patchy: Path, stained: list[str]) -> None:
    reject(stained[:2], str(patchy), silent)
    reject([stained[2], stained[0]], str(patchy), silent)
    model = read_model(str(patchy), 1)
    assert model.rejects is not None
    assert model.rejects.paths == [stained[1], stained[2], stained[0]]
    assert model.rejects.patches is not None
    assert set(model.rejects.patches.images) == {0, 1, 2}
    unreject([str(Path(stained[0]).parent)], str(patchy))
    assert read_model(str(patchy), 1).rejects is None


def test_a_reject_is_known_by_its_defect_and_not_by_what_is_normal(patchy: Path, stained: list[str]) -> None:
    reject(stained, str(patchy), silent)
    rejects = read_model(str(patchy), 1).rejects
    assert rejects is not None
    assert rejects.patches is not None
    patches = rejects.patches
    for image in range(4):
        places = patches.places[patches.images == image].tolist()
        assert [3, 4] in places
        assert len(places) <= 2, "of 64"


def test_with_a_box_it_is_known_by_what_is_there(patchy: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "faint.png")
    image = draw(760)
    image.paste((70, 70, 70), (0, 84, 12, 96))  # a corner that is a little too even: no one would see it
    image.save(path)
    reject([path], str(patchy), silent, box=(2, 86, 8, 8))
    rejects = read_model(str(patchy), 1).rejects
    assert rejects is not None
    assert rejects.patches is not None
    assert rejects.patches.places.tolist() == [[7, 0]]


def test_cells_lie_under_a_box_if_only_in_part(tmp_path: Path) -> None:
    path = str(tmp_path / "a.png")
    draw(1).save(path)  # 96 x 96
    inside = cells_under((11, 40, 2, 30), path, Reading(), (8, 8))
    assert np.argwhere(inside).tolist() == [[row, column] for row in (3, 4, 5) for column in (0, 1)]
    assert cells_under((0, 0, 96, 96), path, Reading(), (8, 8)).all()
    part = Reading(part=Part((96, 96), (48, 48, 48, 48)))
    assert np.argwhere(cells_under((0, 0, 49, 55), path, part, (4, 4))).tolist() == [[0, 0]]
    with pytest.raises(InputError, match=r"sticks out of .*a\.png, which has 96 x 96 pixels"):
        cells_under((90, 0, 7, 5), path, Reading(), (8, 8))
    with pytest.raises(InputError, match="lies outside of what the model looks at, 48,48,48,48"):
        cells_under((0, 0, 40, 40), path, part, (4, 4))


def test_a_normal_is_no_reject(patchy: Path, folder: Path, tmp_path: Path) -> None:
    for place in (patchy, folder):
        model, before = read_model(str(place), 1), content(place)
        assert model.calibration is not None
        for normal in (model.normals[3], model.calibration.paths[4]):
            copied = tmp_path / "copied.png"
            shutil.copy(normal, copied)
            with pytest.raises(InputError) as refused:
                reject([str(copied)], str(place), silent)
            assert str(refused.value) == (
                f"{copied} is a normal of the model, and what is normal cannot be a reject; take it out "
                f"first: anomscan index --remove {normal}"
            )
            assert content(place) == before
            shutil.copytree(place, tmp_path / "other")
            remove([normal], str(tmp_path / "other"))
            assert reject([str(copied)], str(tmp_path / "other"), silent).manifest.rejects is not None
            shutil.rmtree(tmp_path / "other")


def test_a_reject_is_no_normal(patchy: Path, stained: list[str], normal_folder: Path, tmp_path: Path) -> None:
    reject(stained[:1], str(patchy), silent)
    before = content(patchy)
    normals = tmp_path / "normals"
    shutil.copytree(normal_folder, normals)
    shutil.copy(stained[0], normals / "21.png")
    (tmp_path / "others").mkdir()
    shutil.copy(stained[0], tmp_path / "others" / "1.png")
    changes: tuple[Callable[[], object], ...] = (
        lambda: add([stained[0]], str(patchy), silent),
        lambda: calibrate(str(tmp_path / "others"), str(patchy), "none", silent),
        lambda: index(str(normals), str(patchy), IndexOptions(), silent, HoldOut(0.5)),
        lambda: index(str(normals), str(patchy), IndexOptions(), silent),
    )
    for change in changes:
        with pytest.raises(InputError, match="cannot be a normal: the model has it among its rejects"):
            change()
        assert content(patchy) == before
    unreject(stained[:1], str(patchy))
    assert add([stained[0]], str(patchy), silent).manifest.data.images == 11


@pytest.mark.parametrize("looks", ["image", "both"])
def test_rejects_stay_whatever_becomes_of_the_normals(
    looks: Looks, normal_folder: Path, stained: list[str], alarms: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    fake_model(normal_folder, folder, 0.5, looks=looks)
    reject(stained[:2], str(folder), silent)
    before = read_model(str(folder), 1)
    others = tmp_path / "others"
    others.mkdir()
    for seed in range(12):
        draw(900 + seed).save(others / f"{seed}.png")

    def changed(what: Fitted) -> None:
        after = read_model(str(folder), 1)
        assert what.manifest.rejects == before.manifest.rejects
        assert what.manifest.files["rejects"] == before.manifest.files["rejects"]
        assert after.rejects is not None
        assert calibrates_by_what_scores(folder)

    changed(add(alarms[:2], str(folder), silent))
    changed(remove(alarms[:1], str(folder)))
    changed(calibrate(str(others), str(folder), "none", silent))
    changed(index(str(normal_folder), str(folder), IndexOptions(reduce="coreset:5"), silent, HoldOut(0.5)))
    changed(index(str(normal_folder), str(folder), IndexOptions(reduce="kmeans:5"), silent, HoldOut(0.5)))
    changed(index(str(normal_folder), str(folder), IndexOptions(), silent, HoldOut(0.5)))


def test_spreads_are_those_without_rejects(normal_folder: Path, stained: list[str], tmp_path: Path) -> None:
    fake_model(normal_folder, tmp_path / "m", 0.5, looks="both")
    before = index(str(normal_folder), str(tmp_path / "m"), IndexOptions(), silent, HoldOut(0.5)).manifest
    reject(stained, str(tmp_path / "m"), silent)
    after = index(str(normal_folder), str(tmp_path / "m"), IndexOptions(), silent, HoldOut(0.5)).manifest
    assert before.patches is not None
    assert after.patches is not None
    for spread in ("image", "peak", "average"):
        assert getattr(after.patches, spread) == getattr(before.patches, spread)


def test_an_index_by_which_images_look_otherwise_is_refused(
    patchy: Path, folder: Path, stained: list[str], normal_folder: Path
) -> None:
    for place in (patchy, folder):
        reject(stained[:2], str(place), silent)
    refused = "the model has 2 rejects, and the new index cannot keep them"
    otherwise: tuple[tuple[Path, IndexOptions, Gathering, str], ...] = (
        (patchy, IndexOptions(focus=FocusChoice("image")), Gathering(), "in another way"),
        (folder, IndexOptions(int8=True, force=True), Gathering(), "in another way"),
        (folder, IndexOptions(scorer="mahalanobis"), Gathering(), "the scorer mahalanobis"),
        (folder, IndexOptions(), Gathering(region="0,0,48,48"), "in another way"),
        (folder, IndexOptions(tiles=TileChoice("1x2")), Gathering(), "in another way"),
    )
    for place, options, gathering, why in otherwise:
        before = content(place)
        with pytest.raises(UsageError, match=f"{refused}: .*{why}"):
            index(str(normal_folder), str(place), options, silent, gathering=gathering)
        assert content(place) == before


def test_a_model_made_anew_says_that_it_has_none(
    fit: Fit, folder: Path, stained: list[str], normal_folder: Path, small: BackboneChoice
) -> None:
    for made_anew in (
        lambda: fit(normal_folder, folder, method="none"),
        lambda: index(str(normal_folder), str(folder), IndexOptions(small), silent),
    ):
        reject(stained[:1], str(folder), silent)
        fitted = made_anew()
        assert fitted.manifest.rejects is None
        assert "had 1 reject of another network, and this one has none" in " ".join(fitted.notes)
    (folder / MANIFEST).write_text("{}")
    options = AdaptOptions("none", small)
    assert adapt(str(normal_folder), str(folder), options, silent).notes == fitted.notes[:-1]


@pytest.mark.parametrize(
    ("scorer", "why"),
    [
        ("mean", "nothing can be learned from rejects: the scorer mean does not go by"),
        ("kmeans:3", "the scorer kmeans"),
        ("mahalanobis", "the scorer mahalanobis"),
    ],
)
def test_a_scorer_without_neighbours_is_refused(
    scorer: str, why: str, normal_folder: Path, stained: list[str], tmp_path: Path
) -> None:
    fake_model(normal_folder, tmp_path / "m", scorer=scorer)
    with pytest.raises(UsageError, match=why):
        reject(stained, str(tmp_path / "m"), silent)


@pytest.mark.parametrize("procedure", ["patchcore", "spade", "padim"])
def test_the_procedure_of_a_paper_is_refused(
    procedure: str, normal_folder: Path, stained: list[str], tmp_path: Path
) -> None:
    fake_model(normal_folder, tmp_path / "m", 0.5, looks="patch", procedure=procedure)
    with pytest.raises(UsageError, match="which knows no missed anomalies"):
        reject(stained, str(tmp_path / "m"), silent)


def test_what_cannot_be_rejected(
    patchy: Path, folder: Path, stained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(patchy)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").touch()
    with pytest.raises(NoImages, match="no images to reject"):
        reject([str(tmp_path / "empty")], str(patchy), silent)
    with pytest.raises(InputError, match="nowhere"):
        reject(["nowhere"], str(patchy), silent)
    with pytest.raises(InputError, match="can be read"):
        reject([str(tmp_path / "broken.png")], str(patchy), silent)
    with pytest.raises(UsageError, match="--box says where the defect of one image is"):
        reject(stained, str(patchy), silent, box=(0, 0, 9, 9))
    with pytest.raises(InputError, match="--box 0,0,97,9 sticks out"):
        reject(stained[:1], str(patchy), silent, box=(0, 0, 97, 9))
    with pytest.raises(UsageError, match="looks at whole images"):
        reject(stained[:1], str(folder), silent, box=(0, 0, 9, 9))
    with pytest.raises(InputError, match="is not among the rejects"):
        unreject(stained[:1], str(patchy))
    monkeypatch.setattr(module, "MOST", 3)
    with pytest.raises(UsageError, match="4 rejects are too many, 3 at most"):
        reject(stained, str(patchy), silent)
    assert content(patchy) == before
    fitted = reject([*stained[:1], str(tmp_path / "broken.png")], str(patchy), silent)
    assert [Path(image.path).name for image in fitted.unreadable] == ["broken.png"]


def test_where_there_is_no_model_none_is_begun(stained: list[str], tmp_path: Path) -> None:
    folder = str(tmp_path / "none")
    for change in (lambda: reject(stained, folder, silent), lambda: unreject(stained, folder)):
        with pytest.raises(ModelNotFound, match="no model in"):
            change()
    assert not Path(folder).exists()


def test_a_model_that_nobody_calibrated_learns_too(plain: Path, alarms: list[str]) -> None:
    before = scores(plain, alarms)
    manifest = reject(alarms[:1], str(plain), silent).manifest
    assert manifest.calibration is None
    assert all(now > 1.05 * then for now, then in zip(scores(plain, alarms), before, strict=True))


@pytest.mark.parametrize("looks", ["image", "both"])
def test_where_all_calibrate_each_is_scored_without_itself_beside_the_rejects(
    looks: Looks, normal_folder: Path, stained: list[str], tmp_path: Path
) -> None:
    folder = every(normal_folder, tmp_path / "m", looks)
    before = read_model(str(folder), 1).calibration
    original = content(folder)
    rejects = [*stained, *(str(tmp_path / f"like a normal {seed}.png") for seed in range(4))]
    for seed, path in enumerate(rejects[4:]):
        draw(30 + seed).save(path)
    reject(rejects, str(folder), silent)
    after = read_model(str(folder), 1).calibration
    assert before is not None
    assert after is not None
    assert (after.scores >= before.scores).all()
    assert (after.scores > before.scores).any(), "some are nearer to a reject than to any other normal"
    unreject(rejects, str(folder))
    assert {name: held for name, held in original.items() if name != MANIFEST}.items() <= content(
        folder
    ).items()


def test_the_exported_file_knows_them(patchy: Path, stained: list[str], tmp_path: Path) -> None:
    reject(stained[:2], str(patchy), silent)
    out = str(tmp_path / "scorer.onnx")
    parity = export_scored(str(patchy), out, ScoredOptions(images=tuple(stained)), silent)
    assert parity.backends[0].agreement.faults == []
    for row, score in zip(parity.rows, scores(patchy, stained), strict=True):
        assert row["score_exported"] == pytest.approx(score, rel=1e-4)
    import onnx

    about = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert about["rejects"].startswith("2 missed anomalies")


def test_rejects_of_another_folder_are_damage(patchy: Path, folder: Path, stained: list[str]) -> None:
    for place in (patchy, folder):
        reject(stained[:1], str(place), silent)
    manifest = read_manifest(str(patchy))
    text = json.loads((folder / MANIFEST).read_text())
    text["files"]["rejects"] = {
        "name": manifest.files["rejects"].name,
        "sha256": manifest.files["rejects"].sha256,
    }
    shutil.copy(patchy / manifest.files["rejects"].name, folder)
    (folder / MANIFEST).write_text(json.dumps(text))
    assert read_model(str(folder), 1).rejects is not None, "patches that nobody looks at do no harm"
    del text["files"]["rejects"]
    (folder / MANIFEST).write_text(json.dumps(text))
    with pytest.raises(ModelDamaged, match="names no rejects file"):
        read_model(str(folder), 1)


def drawn(generator: np.random.Generator, count: int, *, with_patches: bool) -> Outputs:
    """Made images: features of norm 1, and, if asked for, patches on a grid of four by four."""
    features = generator.normal(size=(count, 6)).astype(np.float32) * 0.4 + np.eye(6, dtype=np.float32)[0]
    patches = generator.normal(size=(count, 4, 4, 3)).astype(np.float32) if with_patches else None
    return Outputs(features / np.linalg.norm(features, axis=1, keepdims=True), patches)


def fitted_to(normals: Outputs, names: list[str]) -> Scorer:
    scorer: Scorer = Knn(ScorerInfo())
    if normals.patches is not None:
        bank = Bank()
        bank.add(normals.patches, names)
        scorer = Focused.of(scorer, "both", bank, 0, 0.5)
    scorer.fit(Outputs(normals.image), 0)
    return scorer


def rejects_of(scorer: Scorer, missed: Outputs, numbers: dict[str, int] | None) -> Rejects:
    """As ``reject`` makes them."""
    paths = [f"/missed/{i}" for i in range(len(missed))]
    if missed.patches is None:
        return Rejects(paths, missed.image)
    assert isinstance(scorer, Focused)
    odd = OddPatches(scorer, numbers, None, Reading())
    odd.add(missed.patches, paths)
    return odd.of(Rejects(paths, missed.image))


@pytest.mark.parametrize("rejects", [1, 5, 50])
@pytest.mark.parametrize("everyone", [False, True])
@pytest.mark.parametrize(("with_patches", "splits"), [(False, 120), (True, 30)])
def test_false_alarms_stay_within_their_bound(
    rejects: int, everyone: bool, with_patches: bool, splits: int
) -> None:
    """Even where what is rejected is just like the normals, which is the worst that can be missed."""
    generator = np.random.default_rng(rejects)
    rates = []
    for _ in range(splits):
        images = drawn(generator, 40 + 39 + 60, with_patches=with_patches)
        missed = drawn(generator, rejects, with_patches=with_patches)
        gallery, others, new = (part(images, *ends) for ends in ((0, 40), (40, 79), (79, 139)))
        calibrating = gallery if everyone else others
        scorer = fitted_to(gallery, [f"g{i}" for i in range(40)])
        numbers = {f"g{i}": i for i in range(40)} if everyone else None
        scorer.reject(rejects_of(scorer, missed, numbers))
        names = [f"{'g' if everyone else 'h'}{i}" for i in range(len(calibrating))]
        embedded = Embedded("", names, Outputs(calibrating.image), [], "")
        kept = None
        if calibrating.patches is not None:
            kept = Kept()
            kept.add(calibrating.patches, names)
        if everyone:
            held_out = HeldOut.every(embedded, "none", {}, kept)
        else:
            held_out = HeldOut.of(embedded, HoldOut(), {}, kept and kept.patches())
        calibration = held_out.scored(scorer, [f"g{i}" for i in range(40)])[0]
        found = scorer.score(scorer.compared(new), 2)
        rates.append((calibration.p_values(found) <= 0.1).mean())
    assert np.mean(rates) <= 0.1 + 3 * np.std(rates) / np.sqrt(splits)


def part(images: Outputs, start: int, end: int) -> Outputs:
    patches = None if images.patches is None else images.patches[start:end]
    return Outputs(images.image[start:end], patches)


def test_an_index_by_which_those_calibrate_that_chose_the_patches_is_refused(
    patchy: Path, stained: list[str], normal_folder: Path, tmp_path: Path
) -> None:
    """Patches of rejects are chosen to be unlike the gallery: its normals cannot be held out then."""
    reject(stained[:1], str(patchy), silent)
    moved = Path(shutil.copytree(normal_folder, tmp_path / "moved"))
    for root, rule in (
        (normal_folder, HoldOut(0.7)),
        (normal_folder, HoldOut(ALL)),
        (moved, HoldOut(0.7)),
        (moved, HoldOut(ALL)),
    ):
        with pytest.raises(UsageError, match="chosen by normals that would calibrate now"):
            index(str(root), str(patchy), IndexOptions(), silent, rule)
    assert index(str(moved), str(patchy), IndexOptions(), silent, HoldOut(0.5)).manifest.rejects is not None
    everyone = every(normal_folder, tmp_path / "every")
    reject(stained[:1], str(everyone), silent)
    index(str(normal_folder), str(everyone), IndexOptions(), silent, HoldOut(ALL))
    for root, rule in ((normal_folder, HoldOut(0.5)), (moved, HoldOut(ALL))):
        with pytest.raises(UsageError, match="chosen by normals that would calibrate now"):
            index(str(root), str(everyone), IndexOptions(), silent, rule)
