import io
import shutil
import tarfile
from pathlib import Path

import pytest

from alexnet.data import ilsvrc, index
from alexnet.data.ilsvrc import train_tar_samples
from alexnet.data.sources import open_data, open_source
from alexnet.errors import DataError

from .ilsvrc import WNIDS, add, devkit, jpeg, meta_mat, miniature

TRAIN, VAL, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return miniature(tmp_path_factory.mktemp("ilsvrc"))


@pytest.fixture
def tars(made, tmp_path):
    """A copy of the official files that a test may spoil."""
    return shutil.copytree(made.tars, tmp_path / "tars")


def basenames(samples):
    return [samples.path(row).name for row in range(len(samples))]


def contents(samples):
    return [samples.read(row) for row in range(len(samples))]


def rows(samples):
    """(label, bytes) of each image by its base name, of which no two are the same."""
    found = dict(zip(basenames(samples), zip(samples.label.tolist(), contents(samples), strict=True), strict=True))
    assert len(found) == len(samples)
    return found


def test_the_tars_are_read_unextracted(made):
    data = open_data(made.tars)
    assert data.classes.keys == tuple(sorted(WNIDS))
    assert data.classes.words[0] == "tench, Tinca tinca of the devkit"
    assert data.val.classes.words == data.classes.words
    assert len(data.train) == 12
    assert data.train.key(0) == "ILSVRC2012_img_train.tar/n01440764.tar/n01440764_10026.JPEG"
    for row in range(len(data.train)):
        wnid = data.train.key(row).rpartition("/")[2].partition("_")[0]
        assert data.classes.keys[data.train.label[row]] == wnid
    with tarfile.open(made.tars / TRAIN) as outer:
        for row in range(len(data.train)):
            _, inner, name = data.train.name(row).split("/")
            with tarfile.open(fileobj=outer.extractfile(inner)) as tar:
                assert data.train.read(row) == tar.extractfile(name).read()


def test_answers_are_ids_and_labels_are_places_among_the_wnids(made):
    data = open_data(made.tars)
    assert [data.classes.keys[label] for label in data.val.label] == list(made.answers)
    # The trap: taking ILSVRC2012_ID - 1 for the label.
    assert data.val.label.tolist() != [WNIDS.index(wnid) for wnid in made.answers]
    with tarfile.open(made.tars / VAL) as tar:
        for row in range(len(data.val)):
            assert data.val.read(row) == tar.extractfile(data.val.name(row).partition("/")[2]).read()


@pytest.fixture(params=["devkit archive", "devkit folder", "val in wnid folders"])
def extracted(request, made, tmp_path):
    folder = shutil.copytree(made.extracted, tmp_path / "extracted")
    if request.param == "devkit folder":
        with tarfile.open(folder / DEVKIT) as tar:
            tar.extractall(folder, filter="data")
        (folder / DEVKIT).unlink()
    if request.param == "val in wnid folders":
        (folder / DEVKIT).unlink()
        for path, wnid in zip(sorted((folder / "val").iterdir()), made.answers, strict=True):
            (folder / "val" / wnid).mkdir(exist_ok=True)
            path.rename(folder / "val" / wnid / path.name)
    return folder


def test_extracted_is_the_same_data(made, extracted):
    tarred, plain = open_data(made.tars), open_data(extracted)
    assert tarred.classes.keys == plain.classes.keys
    if any(extracted.glob("ILSVRC2012_devkit*")):
        assert tarred.classes.words == plain.classes.words
    assert basenames(tarred.train) == basenames(plain.train)
    assert tarred.train.label.tolist() == plain.train.label.tolist()
    assert contents(tarred.train) == contents(plain.train)
    assert rows(tarred.val) == rows(plain.val)


def test_tar_and_folder_may_be_mixed(made, tars):
    (tars / VAL).unlink()
    shutil.copytree(made.extracted / "val", tars / "val")
    mixed, tarred = open_data(tars), open_data(made.tars)
    assert mixed.val.label.tolist() == tarred.val.label.tolist()
    assert contents(mixed.val) == contents(tarred.val)


def test_the_train_tar_finds_its_siblings(made):
    assert open_data(made.tars / TRAIN).fingerprint == open_data(made.tars).fingerprint


def test_each_part_alone(made):
    assert len(open_source(made.tars / VAL)) == len(open_source(made.extracted / "val")) == len(made.answers)


@pytest.mark.parametrize(
    ("tarred", "given", "parts"),
    [
        ((TRAIN, VAL), "", [VAL]),
        ((TRAIN, VAL), TRAIN, [VAL]),
        ((TRAIN,), "", [TRAIN, "val"]),
        ((VAL,), "", ["train", VAL]),
        ((), "", ["train", "val"]),
    ],
)
def test_parts_to_name_are_named(made, tars, tarred, given, parts):
    for tar, folder in ((TRAIN, "train"), (VAL, "val")):
        if tar not in tarred:
            (tars / tar).unlink()
            shutil.copytree(made.extracted / folder, tars / folder)
    with pytest.raises(DataError) as caught:
        open_source(tars / given)
    assert str(caught.value).endswith(f"; name {' or '.join(str(tars / part) for part in parts)}")
    for part in parts:
        assert len(open_source(tars / part))


def test_a_class_that_val_lacks_is_refused(made, tars):
    with tarfile.open(tars / VAL, "w") as tar:
        for number in (1, 2, 3, 6, 7, 8):  # no n02110185
            add(tar, f"ILSVRC2012_val_{number:08d}.JPEG", jpeg(number))
    with pytest.raises(DataError, match=r"not the 4 expected: missing n02110185$"):
        open_data(tars)


def test_a_class_that_train_lacks_is_refused(made, tars):
    with tarfile.open(tars / TRAIN, "w") as outer, tarfile.open(made.tars / TRAIN) as full:
        for wnid in WNIDS[1:]:
            add(outer, f"{wnid}.tar", full.extractfile(f"{wnid}.tar").read())
    with pytest.raises(DataError, match=r"not the 3 expected: unknown n02119789$"):
        open_data(tars)


def test_images_are_answered_for_by_their_number_not_by_their_place(made, tars):
    with tarfile.open(tars / VAL, "w") as tar:
        for number in (8, 3, 2, 5):
            add(tar, f"ILSVRC2012_val_{number:08d}.JPEG", jpeg(number))
    data = open_data(tars)
    assert [data.classes.keys[label] for label in data.val.label] == [made.answers[n - 1] for n in (2, 3, 5, 8)]


@pytest.mark.parametrize("missing", [TRAIN, VAL, DEVKIT])
def test_a_missing_file_is_named(tars, missing):
    (tars / missing).unlink()
    with pytest.raises(DataError, match=rf"{missing}: missing"):
        open_data(tars)


def test_the_train_tar_alone_is_split(tars):
    (tars / VAL).unlink()
    data = open_data(tars / TRAIN, val_fraction=0.25)
    assert (len(data.train), len(data.val)) == (8, 4)


def test_a_member_that_is_no_class_tar_is_refused(tars):
    with tarfile.open(tars / TRAIN, "a") as outer:
        add(outer, "readme.txt", b"x")
    with pytest.raises(DataError, match=r"member readme\.txt: expected one nXXXXXXXX\.tar a class"):
        open_data(tars)


def test_an_empty_class_tar_is_refused(tars):
    packed = io.BytesIO()
    tarfile.open(fileobj=packed, mode="w").close()
    with tarfile.open(tars / TRAIN, "a") as outer:
        add(outer, "n09999999.tar", packed.getvalue())
    with pytest.raises(DataError, match=r"n09999999\.tar: a class tar without images"):
        open_data(tars)


def test_an_inner_tar_cannot_reach_beyond_itself(made, tars):
    with tarfile.open(made.tars / TRAIN) as full:
        inner = full.extractfile(f"{WNIDS[0]}.tar").read()
    with tarfile.open(tars / TRAIN, "w") as outer:
        add(outer, f"{WNIDS[0]}.tar", inner[:1024])  # cut within its first image
        add(outer, f"{WNIDS[1]}.tar", inner)
    with pytest.raises(DataError, match=rf"{TRAIN}: the tar is cut short"):
        open_data(tars)


def test_a_train_tar_cut_anywhere_is_refused(made, tars):
    whole = (made.tars / TRAIN).read_bytes()
    for length in range(0, len(whole) - 10240, 4001):
        (tars / TRAIN).write_bytes(whole[:length])
        with pytest.raises(DataError, match=TRAIN):
            open_source(tars / TRAIN)


def test_a_damaged_devkit_is_named(made, tars):
    whole = (tars / DEVKIT).read_bytes()
    (tars / DEVKIT).write_bytes(whole[:300])
    with pytest.raises(DataError, match=f"{DEVKIT}: damaged or cut short"):
        open_data(tars)
    (tars / DEVKIT).write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match=f"{DEVKIT}: damaged or cut short"):
        open_data(tars)


@pytest.mark.parametrize(
    ("meta", "answers", "problem"),
    [
        (None, b"1\n", r"it lacks ILSVRC2012_devkit_t12/data/meta\.mat"),
        (b"MATLAB?", b"1\n", r"meta\.mat: not the devkit's meta\.mat"),
        (meta_mat(), b"1\n2\n7\n", "line 3: '7' is no class"),
        (meta_mat(), b"1\nfive\n", "line 2: 'five' is no class"),
        (meta_mat(), b"5\n", "line 1: '5' is no class"),  # an inner synset
        (meta_mat(), b"1\n2\n", "00000003.JPEG: expected .* 00000001 to 00000002"),
    ],
)
def test_a_devkit_that_does_not_fit_is_named(tars, meta, answers, problem):
    with tarfile.open(tars / DEVKIT, "w:gz") as tar:
        add(tar, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", answers)
        if meta is not None:
            add(tar, "ILSVRC2012_devkit_t12/data/meta.mat", meta)
    with pytest.raises(DataError, match=problem):
        open_source(tars / VAL)


def test_a_link_in_the_devkit_is_not_followed(tars):
    with tarfile.open(tars / DEVKIT, "w:gz") as tar:
        link = tarfile.TarInfo("ILSVRC2012_devkit_t12/data/meta.mat")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(DataError, match="not a regular file"):
        open_source(tars / VAL)


def test_a_single_class_devkit_is_read(tmp_path):
    devkit(tmp_path / DEVKIT, (WNIDS[0],) * 2, WNIDS[:1])
    with tarfile.open(tmp_path / VAL, "w") as tar:
        add(tar, "ILSVRC2012_val_00000001.JPEG", jpeg(1))
    assert open_source(tmp_path / VAL).classes.keys == (WNIDS[0],)


def test_memory_holds_one_descriptor_a_tar(made):
    data = open_data(made.tars)
    before = len(list(Path("/proc/self/fd").iterdir()))
    contents(data.train)
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 1


def test_a_kept_index_gives_the_same_table(made, tars, tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    with tarfile.open(tars / TRAIN, "w") as outer, tarfile.open(made.tars / TRAIN) as full:
        for wnid in WNIDS:
            inner = full.extractfile(f"{wnid}.tar").read()
            add(outer, f"{wnid}.tar", inner)
    plain = train_tar_samples(tars / TRAIN)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(index, "WORTH_KEEPING", 0)
    assert train_tar_samples(tars / TRAIN).fingerprint() == plain.fingerprint()
    (kept,) = (tmp_path / "cache").iterdir()
    whole = kept.read_bytes()

    with monkeypatch.context() as patch:
        patch.setattr(ilsvrc, "members", None)  # the headers are not read again
        again = train_tar_samples(tars / TRAIN)
    assert again.fingerprint() == plain.fingerprint()
    assert again.classes == plain.classes
    assert again.ignored == plain.ignored
    assert contents(again) == contents(plain)

    for spoiled in (b"", whole[:200], whole[:-30], b"no zip"):
        kept.write_bytes(spoiled)
        assert train_tar_samples(tars / TRAIN).fingerprint() == plain.fingerprint()
        assert kept.read_bytes() == whole

    with tarfile.open(tars / TRAIN, "w") as outer, tarfile.open(made.tars / TRAIN) as full:
        add(outer, f"{WNIDS[0]}.tar", full.extractfile(f"{WNIDS[0]}.tar").read())
    assert train_tar_samples(tars / TRAIN).classes.keys == WNIDS[:1]


def test_an_index_that_cannot_be_kept_does_no_harm(made, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(index, "WORTH_KEEPING", 0)
    assert len(train_tar_samples(made.tars / TRAIN)) == 12
