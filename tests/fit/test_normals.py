from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from anomscan.errors import InputError, NoImages, UsageError
from anomscan.fit import normals as normals_module
from anomscan.fit.look import Look
from anomscan.fit.normals import HELD_OUT, Normals, group_name, group_names, hold_out_rule
from anomscan.images.find import Found, Source, Unreadable
from anomscan.model.manifest import ALL, HoldOut
from anomscan.types import Reading
from tests.conftest import fake_model

Split = tuple[list[Found], list[Found]]


def sources(paths: list[str], root: str = "/root") -> list[Found]:
    return [Source(f"{root}/{path}") for path in paths]


def hold_out(many: list[Found], rule: HoldOut, seed: int = 0, root: str = "/root") -> Split:
    """What is kept and what is held out of ``many``."""
    split = Normals(root, many, [], HoldOut()).split(rule, seed)
    assert (split.root, split.rule) == (root, rule)
    return split.sources, split.held_out


def names(found: list[Found]) -> list[str]:
    return [Path(source.path).name for source in found]


@pytest.mark.parametrize(
    ("path", "folder", "prefix"),
    [
        ("a/lot7_0012.png", "a", "a/lot7"),
        ("a/lot7_0012_left.png", "a", "a/lot7"),
        ("2026-11-22_003.png", "", "2026-11-22"),
        ("IMG0001.JPG", "", "IMG"),
        ("b/plain.png", "b", "b/plain"),
    ],
)
def test_group_names(path: str, folder: str, prefix: str) -> None:
    assert group_name(path, "folder") == folder
    assert group_name(path, "prefix") == prefix
    assert group_name(path, "none") == path


def test_images_are_held_out_at_random_but_always_the_same() -> None:
    many = sources([f"{i}.png" for i in range(100)])
    kept, held_out = hold_out(many, HoldOut(0.2))
    assert len(held_out) == 20
    assert sorted([*kept, *held_out], key=many.index) == many
    assert kept == [source for source in many if source not in held_out]
    moved = sources([f"{i}.png" for i in range(100)], "/else")
    assert names(hold_out(moved, HoldOut(0.2), root="/else")[1]) == names(held_out)
    assert hold_out(many, HoldOut(0.2), seed=1)[1] != held_out
    fewer = [source for source in many if source.path != kept[0].path]
    assert set(hold_out(fewer, HoldOut(20 / 99))[1]) == set(held_out)


def test_whole_groups_are_held_out() -> None:
    many = sources([f"day{i // 10}/{i}.png" for i in range(100)])
    kept, held_out = hold_out(many, HoldOut(0.2, "folder"))
    days = [{Path(source.path).parent.name for source in part} for part in (kept, held_out)]
    assert len(held_out) == 20
    assert not days[0] & days[1]


def test_what_is_not_held_out() -> None:
    many = sources([f"day/{i}.png" for i in range(50)])
    assert hold_out(many, HoldOut(0.0)) == (many, [])
    assert hold_out(many[:9], HoldOut(0.5)) == (many[:9], [])
    with pytest.raises(UsageError, match="puts all 50 normals into one group"):
        hold_out(many, HoldOut(0.2, "folder"))
    look = Look(Reading(), {"/root/a/0.png": 0, "/root/b/1.png": 0})
    two = Normals("/root", sources([f"{'ab'[i % 2]}/{i}.png" for i in range(50)]), [], HoldOut(), look)
    with pytest.raises(UsageError, match="copies of images in several groups join all 50 normals into one"):
        two.split(HoldOut(0.2, "folder"), 0)
    lopsided = sources([f"{'ab'[i < 45]}/{i}.png" for i in range(50)])
    kept, held_out = hold_out(lopsided, HoldOut(0.2, "folder"))
    assert (len(kept), len(held_out)) == (45, 5)


def test_nothing_that_was_trained_on_is_held_out_nor_its_group() -> None:
    many = sources([f"day{i // 10}/{i}.png" for i in range(100)])
    trained = [f"/root/day{day}/{10 * day}.png" for day in range(8)]
    split = Normals("/root", many, [], HoldOut()).split(HoldOut(0.5, "folder"), 0, trained)
    assert {Path(source.path).parent.name for source in split.held_out} == {"day8", "day9"}
    everything = [source.path for source in many]
    assert Normals("/root", many, [], HoldOut()).split(HoldOut(0.2), 0, everything).held_out == []


def test_so_many_are_held_out_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normals_module, "MOST_HELD_OUT", 7)
    assert len(hold_out(sources([f"{i}.png" for i in range(100)]), HoldOut(0.2))[1]) == 7


def test_what_cannot_be_read_is_of_a_group_too() -> None:
    many: list[Found] = [Unreadable(f"/root/day{i // 10}/{i}.png", "gone") for i in range(40)]
    kept, held_out = hold_out(many, HoldOut(0.25, "folder"))
    assert (len(kept), len(held_out)) == (30, 10)


def test_the_normals_are_all_images_below_a_folder(normal_folder: Path, tmp_path: Path) -> None:
    found = Normals.find(str(normal_folder))
    assert (len(found.sources), found.held_out, found.rule) == (20, [], HoldOut())
    with pytest.raises(NoImages):
        Normals.find(str(tmp_path))
    with pytest.raises(InputError, match="No such file"):
        Normals.find(str(tmp_path / "gone"))


def test_the_rule_is_the_one_asked_for_or_the_models_or_the_default(
    calibrated_folder: Path, model_folder: Path, normal_folder: Path, tmp_path: Path
) -> None:
    assert hold_out_rule(None, None, None) == HoldOut(HELD_OUT, "none")
    assert hold_out_rule(None, 0.3, "folder") == HoldOut(0.3, "folder")
    assert hold_out_rule(str(tmp_path / "none yet"), None, None) == HoldOut(HELD_OUT)
    assert hold_out_rule(str(calibrated_folder), None, None) == HoldOut(0.5)
    assert hold_out_rule(str(calibrated_folder), 0.0, None) == HoldOut(ALL)
    assert hold_out_rule(str(calibrated_folder), None, "prefix") == HoldOut(0.5, "prefix")
    assert hold_out_rule(str(model_folder), None, None) == HoldOut(HELD_OUT)
    lots = tmp_path / "lots"
    for i, path in enumerate(sorted(normal_folder.iterdir())):
        lots.joinpath(str(i // 5)).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, lots / str(i // 5))
    fake_model(lots, tmp_path / "m", 0.25, group_by="folder")
    assert hold_out_rule(str(tmp_path / "m"), None, None) == HoldOut(0.25, "folder")


def test_groups_that_hold_copies_of_each_other_are_one() -> None:
    paths = ["a/1.png", "a/2.png", "b/1.png", "c/1.png", "d/1.png"]
    copies = {"a/2.png": 0, "b/1.png": 0, "b/2.png": 1, "c/1.png": 2, "d/1.png": 2}
    assert group_names(paths, "folder", copies) == ["a", "a", "a", "c", "c"]
    assert group_names(paths, "none", {}) == paths
    assert group_names(paths, "none", {paths[4]: 7, paths[1]: 7}) == [*paths[:4], paths[1]]


def test_whole_parts_can_be_held_out() -> None:
    many = sources([f"in/{i:03}_{view}.png" for i in range(30) for view in ("left", "top")])
    for rule in ("part", r"/(\d+)_"):
        kept, held_out = hold_out(many, HoldOut(0.2, rule))
        assert (len(kept), len(held_out)) == (48, 12)
        parts = [{Path(source.path).name[:3] for source in side} for side in (kept, held_out)]
        assert not parts[0] & parts[1]


def test_what_is_no_rule_of_groups_is_refused() -> None:
    for text in ("colour", "(", ""):
        with pytest.raises(UsageError, match="--group-by takes none, folder, prefix, part or a regular"):
            hold_out_rule(None, None, text)
