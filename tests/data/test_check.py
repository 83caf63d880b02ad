"""The doctor: every planted fault is found, and nothing else; the same at any number of threads, from every source."""

import io
import os
import shutil
import struct
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet import stop
from alexnet.data import check as checking
from alexnet.data.check import FAULTS, KINDS, check, move, moves
from alexnet.data.decode import traits
from alexnet.data.likeness import BITS, NEAR, alike, likeness
from alexnet.data.sheet import MOST_SHOWN, sheet
from alexnet.data.sources import open_parts
from alexnet.errors import DataError, Stopped
from tests.data.test_decode import chunk, corrupt_exif, encoded, exif, noise, picture, png


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def checked(where, *, val=None, val_fraction=0.2, **options):
    train, held_out, _ = open_parts(where, val=val, val_fraction=val_fraction)
    return check(train, held_out, **{"threads": 2, **options})


def said(report, root):
    """(path relative to the data, kind) of everything found."""
    return sorted((os.path.relpath(one.path, root) if one.row >= 0 else one.path, one.kind) for one in report.problems)


def big_png():
    return png(20_000, 20_000, depth=8, colour=0, rows=[])


def many_scans():
    data = encoded(picture(), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * 200 + data[-2:]


def animation(kind):
    frames = [Image.fromarray(noise(20, 30, 3, seed=i)).quantize(32) for i in range(3)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def planted(flowers: Path, folder: Path, each: int = 10) -> list[tuple[str, str]]:
    """A hundred flowers in train/ and val/ of `folder`, faults of every kind among them; (path, kind) of these."""
    for part in ("train", "val"):
        for kind in sorted((flowers / part).iterdir()):
            (folder / part / kind.name).mkdir(parents=True)
            for path in sorted(kind.iterdir())[:each]:
                shutil.copy(path, folder / part / kind.name)
    some = sorted((flowers / "train" / "daisy").iterdir())[each:]
    jpeg = iter([path.read_bytes() for path in some[:20]])
    made = {
        "train/daisy/half.jpg": ((whole := next(jpeg))[: len(whole) // 2], "truncated"),
        "val/roses/half.png": (encoded(noise(40, 50, 3), "PNG")[:3000], "truncated"),
        "train/daisy/half.gif": (encoded(noise(40, 50, 3), "GIF", "P")[:900], "truncated"),
        "train/daisy/half.webp": (encoded(noise(40, 50, 3), "WEBP")[:400], "truncated"),
        "train/daisy/half.bmp": (encoded(noise(40, 50, 3), "BMP")[:900], "truncated"),
        "train/roses/broken.png": (with_a_wrong_byte(encoded(noise(40, 50, 3), "PNG")), "damaged"),
        "train/roses/nothing.jpg": (b"", "empty file"),
        "val/tulips/nothing.png": (b"", "empty file"),
        "train/tulips/page.jpg": (b"<!DOCTYPE html><html>404</html>", "wrong kind"),
        "train/tulips/phone.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "wrong kind"),
        "train/tulips/scan.tif": (encoded(picture(), "TIFF"), "wrong kind"),
        "train/roses/bomb.png": (big_png(), "oversized"),
        "train/roses/scans.jpg": (many_scans(), "oversized"),
        "train/sunflowers/really.jpg": (encoded(noise(9, 9, 3), "PNG"), "other suffix"),
        "train/sunflowers/really.png": (next(jpeg), "other suffix"),
        "train/sunflowers/ink.jpg": (encoded(picture(), "JPEG", "CMYK"), "CMYK"),
        "train/sunflowers/deep.png": (encoded(Image.fromarray(noise(9, 9).astype(np.uint16) * 257), "PNG"), "16 bits"),
        "val/sunflowers/moves.gif": (animation("GIF"), "animated"),
        "val/sunflowers/moves.webp": (animation("WEBP"), "animated"),
        "val/sunflowers/moves.png": (animation("PNG"), "animated"),
        "train/daisy/turned.jpg": (encoded(picture(30, 40), "JPEG", exif=exif(6)), "EXIF-rotated"),
        "train/daisy/turned.webp": (encoded(picture(30, 40), "WEBP", exif=exif(8)), "EXIF-rotated"),
        "train/daisy/turned.png": (encoded(picture(30, 40), "PNG", exif=exif(3)), "EXIF-rotated"),
        **{
            f"train/dandelion/{name}.jpg": (encoded(noise(20, 30, 3, seed=i), "JPEG", exif=block), "corrupt EXIF")
            for i, (name, block) in enumerate(corrupt_exif().items())
        },
    }  # fmt: skip
    expected = [(name, kind) for name, (_, kind) in made.items()]
    for name, (content, _) in made.items():
        (folder / name).write_bytes(content)
    twice, leaked, named_twice, lone = next(jpeg), next(jpeg), next(jpeg), next(jpeg)
    for names, content in (
        (("train/roses/a.jpg", "train/roses/b.jpg", "train/roses/c.jpg"), twice),
        (("train/roses/l.jpg", "val/roses/m.jpg"), leaked),
        (("train/daisy/x.jpg", "train/tulips/y.jpg", "val/tulips/z.jpg"), named_twice),
        (("train/orchids/only.jpg",), lone),
    ):
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
    expected += [
        ("train/roses/b.jpg", "duplicate"),
        ("train/roses/c.jpg", "duplicate"),
        ("train/roses/l.jpg", "leak"),
        *((name, "two labels") for name in ("train/daisy/x.jpg", "train/tulips/y.jpg", "val/tulips/z.jpg")),
        ("train/daisy/x.jpg", "leak"),
        ("train/tulips/y.jpg", "leak"),
        ("orchids", "single picture"),
        ("orchids", "other classes"),
        (str(folder / "train" / "thistles"), "empty class"),
        ("thistles", "other classes"),
    ]
    (folder / "train" / "thistles").mkdir()
    (folder / "__MACOSX").mkdir()
    (folder / "train" / "daisy" / ".DS_Store").touch()
    (folder / "train" / "daisy" / "notes.txt").touch()
    (folder / "test").mkdir()
    return sorted(expected)


def with_a_wrong_byte(data: bytes) -> bytes:
    at = data.index(b"IDAT") + 100
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


@pytest.fixture(scope="module")
def ill(flowers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ill") / "flowers"
    return folder, planted(flowers, folder)


def test_every_planted_fault_is_found_and_no_other(ill, capfd):
    folder, expected = ill
    report = checked(folder)
    assert said(report, folder) == expected
    # nothing can be unreadable here, all classes are there, and near ones are not asked for
    assert {kind for _, kind in expected} == set(KINDS) - {"unreadable", "one class", "near duplicate"}
    assert report.leaked == 2
    assert [[os.path.relpath(report.path(row), folder) for row in rows] for rows in report.duplicates] == [
        ["train/daisy/x.jpg", "train/tulips/y.jpg", "val/tulips/z.jpg"],
        ["train/roses/a.jpg", "train/roses/b.jpg", "train/roses/c.jpg"],
        ["train/roses/l.jpg", "val/roses/m.jpg"],
    ]
    assert report.left_out() == {
        "hidden or junk": (2, ["daisy/.DS_Store", "__MACOSX"]),
        "not an image by its suffix": (1, ["daisy/notes.txt"]),
        "outside train/ and val/": (1, ["test"]),
    }
    assert capfd.readouterr() == ("", "")


def test_the_report_is_the_same_at_any_number_of_threads(ill):
    folder, _ = ill
    assert checked(folder, threads=1, near=True).to_json() == checked(folder, threads=5, near=True).to_json()


def test_a_clean_part_of_the_flowers_has_nothing(flowers, tmp_path):
    for kind in sorted((flowers / "train").iterdir()):
        (tmp_path / kind.name).mkdir()
        for path in sorted(kind.iterdir())[:8]:
            shutil.copy(path, tmp_path / kind.name)
    report = checked(tmp_path)
    assert (report.problems, report.duplicates, report.leaked, len(report)) == ([], [], 0, 40)


def pillow_complains(block: bytes) -> bool:
    """Whether Pillow's reader warns of a block of EXIF or refuses it."""
    tags = Image.Exif()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            tags.load(block)
            dict(tags)
        except (SyntaxError, struct.error):
            return True
    return bool(said)


def test_exif_is_corrupt_where_pillow_says_so():
    tags = Image.Exif()
    tags[0x010F], tags[0x0110], tags[0x011A], tags[0x0132] = (
        "A maker of cameras",
        "model x",
        72.0,
        "2020:01:01 00:00:00",
    )
    good, random = tags.tobytes(), np.random.default_rng(0)
    counts = {True: 0, False: 0}
    for _ in range(500):
        block = bytearray(good[: random.integers(8, len(good))] if random.integers(2) else good)
        for _ in range(random.integers(0, 3)):
            block[random.integers(6, len(block))] = random.integers(256)
        damaged = traits(encoded(picture(8, 8), "JPEG", exif=bytes(block))).exif_damaged
        assert damaged == pillow_complains(bytes(block)), bytes(block)
        counts[damaged] += 1
    assert min(counts.values()) > 100


def test_orientation_is_what_pillow_reads(photos):
    for path in sorted(photos.glob("*/*.jpg")):
        one = traits(path.read_bytes())
        with Image.open(path) as opened:
            assert (one.orientation, one.exif_damaged) == (opened.getexif().get(0x0112, 1), False)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_traits_of_exif_that_is_whole(orientation):
    for kind in ("JPEG", "PNG", "WEBP"):
        one = traits(encoded(picture(20, 30), kind, exif=exif(orientation)))
        assert (one.orientation, one.exif_damaged) == (orientation, False)


def test_traits_of_what_says_nothing():
    for kind, mode in (
        ("JPEG", "L"),
        ("JPEG", "RGB"),
        ("PNG", "1"),
        ("PNG", "RGBA"),
        ("WEBP", "RGB"),
        ("GIF", "P"),
        ("BMP", "RGB"),
    ):
        one = traits(encoded(picture(), kind, mode))
        assert (one.kind, one.inks, one.deep, one.animated, one.orientation, one.exif_damaged) == (
            kind, "", False, False, 1, False)  # fmt: skip
    still = encoded(picture(), "PNG")
    assert not traits(still[:33] + chunk(b"acTL", struct.pack(">II", 1, 0)) + still[33:]).animated


def test_a_file_that_goes_away_is_unreadable(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(noise(9, 9, 3, seed=int(name[2])), "PNG"))
    train, _, _ = open_parts(tmp_path, val_fraction=0)
    (tmp_path / "a/2.png").unlink()
    (tmp_path / "b/3.png").write_bytes(b"other")
    report = check(train, None, threads=1)
    assert said(report, tmp_path) == [("a/2.png", "unreadable"), ("b", "single picture"), ("b/3.png", "unreadable")]
    assert moves(report, str(tmp_path), None)[0].source == tmp_path / "a/2.png"
    assert move(moves(report, str(tmp_path), None)) == 1  # what is gone cannot be moved


def test_one_class_is_a_fault(tmp_path):
    (tmp_path / "a").mkdir()
    for i in range(5):
        (tmp_path / f"a/{i}.png").write_bytes(encoded(noise(9, 9, 3, seed=i), "PNG"))
    assert [(one.path, one.kind) for one in checked(tmp_path).problems] == [("a", "one class")]


def pictures_of(folder: Path) -> dict[str, bytes]:
    """Two classes, a leak, a damaged picture."""
    made = {f"{part}/{key}/{i}.png": encoded(noise(9, 9, 3, seed=10 * i + ord(key) + len(part)), "PNG")
            for part in ("train", "val") for key in "ab" for i in range(4)}  # fmt: skip
    made["train/a/0.png"] = made["val/a/1.png"]
    made["train/b/2.png"] = made["train/b/2.png"][:60]
    for name, content in made.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return made


def test_every_source_is_checked_alike(tmp_path):
    made = pictures_of(tmp_path / "set")
    expected = [("a/0.png", "leak"), ("b/2.png", "truncated")]
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for name, content in made.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    for part in ("train", "val"):
        lines = [f"set/{name} {name.split('/')[1]}" for name in made if name.startswith(part)]
        (tmp_path / f"{part}.txt").write_text("\n".join(lines))
    for report in (
        checked(tmp_path / "set"),
        checked(tmp_path / "set.tar"),
        checked(tmp_path / "set" / "train", val=tmp_path / "set" / "val"),
        checked(tmp_path / "train.txt", val=tmp_path / "val.txt"),
    ):
        assert [("/".join(one.path.split("/")[-2:]), one.kind) for one in report.problems] == expected
        assert (report.leaked, len(report)) == (1, 16)
        assert report.counts.tolist() == [[4, 4], [4, 4]]


def test_digits_and_a_raw_pack(tmp_path):
    from alexnet.data.pack import pack
    from alexnet.data.sources import open_data
    from alexnet.network.variants import variant
    from alexnet.weights.run import preprocess_of

    assert checked("digits").problems == []
    pictures_of(tmp_path / "set")
    (tmp_path / "set/train/b/2.png").unlink()
    found = open_data(tmp_path / "set")
    for form in ("raw", "jpeg"):
        out = tmp_path / form
        pack(found.train, found.val, out, form=form, preprocess=preprocess_of(variant("tiny")), source=found.source,
             fingerprint=found.fingerprint, quality=90, threads=1, bad_images="error", cache=tmp_path)  # fmt: skip
        report = checked(out)
        assert [one.kind for one in report.problems] == ["leak"]
        assert moves(report, str(out), None)[0].target is None
        assert "data:image/jpeg" in sheet(report, "a pack")


def test_a_drawn_split_leaks_what_it_draws_apart(tmp_path):
    for key in "ab":
        (tmp_path / key).mkdir()
        for i in range(10):
            (tmp_path / key / f"{i}.png").write_bytes(encoded(noise(9, 9, 3, seed=ord(key)), "PNG"))
    report = checked(tmp_path)
    assert report.leaked == 4
    assert report.found() == {"leak": 16, "duplicate": 16 - 2 + 4 - 2}
    assert checked(tmp_path, val_fraction=0).found() == {"duplicate": 18}


# Alike


def test_a_resized_and_recompressed_picture_is_near_and_others_are_not(photos, tmp_path):
    paths = sorted(photos.glob("*/*.jpg"))[::6]
    for path in paths:
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / path.parent.name / path.name)
    planted = []
    for path in paths[::5]:
        again = tmp_path / path.parent.name / f"{path.stem}_again.jpg"
        with Image.open(path) as opened:
            opened.resize((opened.width * 2 // 3, opened.height * 2 // 3)).save(again, quality=60)
        planted.append({path.name, again.name})
    report = checked(tmp_path, val_fraction=0, near=True)
    groups = [{Path(report.path(row)).name for row in rows} for rows in report.near]
    assert sorted(map(sorted, groups)) == sorted(map(sorted, planted))
    assert report.found() == {"near duplicate": len(planted)}


def test_alike_is_every_pair_that_differs_in_few_bits():
    random = np.random.default_rng(0)
    values = random.integers(0, 2**64, 300, dtype=np.uint64)
    for i in range(1, 300, 3):  # neighbours at distances 0 to 6
        flips = random.choice(BITS, random.integers(0, 7), replace=False)
        values[i] = values[i - 1] ^ np.bitwise_or.reduce(np.uint64(1) << flips.astype(np.uint64), initial=np.uint64(0))
    before, group = alike(values, lambda: None)
    distance = np.bitwise_count(values[:, None] ^ values[None, :])
    assert {*distance[np.arange(1, 300, 3), np.arange(0, 300, 3)]} == set(range(7))
    near = distance <= NEAR
    assert before.tolist() == near.argmax(1).tolist()
    reached = near.copy()
    for _ in range(9):
        reached = reached @ reached
    assert np.array_equal(group[:, None] == group[None, :], reached)


def test_likeness_tells_which_side_is_lighter():
    slope = np.repeat(np.linspace(0, 255, 90).astype(np.uint8)[None, :, None], 3, 2).repeat(80, 0)
    assert (int(likeness(slope)), int(likeness(slope[:, ::-1].copy()))) == (2**64 - 1, 0)


# The sheet


def test_the_sheet_is_bounded_and_everything_in_it_is_escaped(tmp_path):
    evil = tmp_path / "<script>alert(1)<"
    evil.mkdir()
    (tmp_path / "b").mkdir()
    for i in range(4 * MOST_SHOWN):
        name = f'"><img src=x onerror=alert({i})>.png'
        (evil / name).write_bytes(encoded(noise(300, 400, 3, seed=i), "JPEG"))
        (tmp_path / "b" / f"{i}.png").write_bytes(b"GIF89a")
    page = sheet(checked(tmp_path, val_fraction=0), "<b>title</b>")
    assert "<script" not in page and "<img src=x" not in page and "<b>" not in page
    assert page.count("<img ") == MOST_SHOWN == page.count("cannot be shown")
    assert len(page) < 400_000
    assert "default-src 'none'" in page and "http://" not in page and "https://" not in page


# Moving


def tree_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_moved_pictures_lie_beside_the_data_and_what_is_left_is_whole(ill, tmp_path):
    shutil.copytree(ill[0], tmp_path / "set")
    before = tree_of(tmp_path / "set")
    report = checked(tmp_path / "set")
    chosen = moves(report, str(tmp_path / "set"), None)
    faulty = {name for name, kind in ill[1] if kind in FAULTS and "/" in name and not name.startswith("/")}
    assert move(chosen) == len(faulty)
    assert tree_of(tmp_path / "set-bad") == {name: before[name] for name in faulty}
    assert tree_of(tmp_path / "set") == {name: content for name, content in before.items() if name not in faulty}
    assert set(checked(tmp_path / "set").faults()) == {"other classes", "empty class"}


def test_a_taken_place_is_not_overwritten(tmp_path):
    pictures_of(tmp_path / "set")
    chosen = moves(checked(tmp_path / "set"), str(tmp_path / "set"), None)
    taken = tmp_path / "set-bad" / "train" / "b" / "2.png"
    taken.parent.mkdir(parents=True)
    taken.write_text("mine")
    before = tree_of(tmp_path)
    with pytest.raises(DataError, match=r"set-bad/train/b/2\.png: is there already"):
        move(chosen)
    assert tree_of(tmp_path) == before


def test_a_stopped_move_loses_nothing_and_goes_on(tmp_path, monkeypatch):
    made = pictures_of(tmp_path / "set")
    answers = iter([False, True])
    chosen = moves(checked(tmp_path / "set"), str(tmp_path / "set"), None)
    monkeypatch.setattr(stop, "requested", lambda: next(answers))
    with pytest.raises(Stopped, match="1 of 2"):
        move(chosen)
    monkeypatch.undo()
    everything = tree_of(tmp_path / "set") | tree_of(tmp_path / "set-bad")
    assert everything == made and len(tree_of(tmp_path / "set-bad")) == 1
    assert move(moves(checked(tmp_path / "set"), str(tmp_path / "set"), None)) == 1
    assert tree_of(tmp_path / "set") | tree_of(tmp_path / "set-bad") == made


def test_a_move_that_fails_says_so(tmp_path, monkeypatch):
    made = pictures_of(tmp_path / "set")
    chosen = moves(checked(tmp_path / "set"), str(tmp_path / "set"), None)

    def no_room(source, target):
        raise OSError(18, "Invalid cross-device link", str(source))

    monkeypatch.setattr(checking.files, "move", no_room)
    with pytest.raises(DataError, match=r"0\.png: cannot be moved to .* \(Invalid cross-device link\); 0 were moved"):
        move(chosen)
    assert tree_of(tmp_path / "set") == made


def test_what_a_link_leads_to_stays(tmp_path):
    pictures_of(tmp_path / "set")
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "set/train/b").rename(elsewhere)
    (tmp_path / "set/train/b").symlink_to(elsewhere)
    broken = tmp_path / "set/train/a/9.png"
    broken.symlink_to(elsewhere / "2.png")
    chosen = moves(checked(tmp_path / "set"), str(tmp_path / "set"), None)
    targets = {one.source.name: one.target for one in chosen}
    assert targets == {"0.png": tmp_path / "set-bad/train/a/0.png", "9.png": None, "2.png": None}
    assert move(chosen) == 1
    assert (elsewhere / "2.png").exists() and broken.is_symlink()


def test_a_scan_is_stopped(tmp_path, monkeypatch):
    pictures_of(tmp_path / "set")
    monkeypatch.setattr(stop, "requested", lambda: True)
    with pytest.raises(Stopped):
        checked(tmp_path / "set")


@pytest.mark.slow
def test_many_pictures_in_little_memory():
    from tests.faults import doctor

    assert all(row.held for row in doctor.million(10_000, seed=0))
