"""Files of features as other programs read them, and what becomes of files that are not as they are written."""

import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alexnet.data.sources import open_images, open_source
from alexnet.errors import DataError, UsageError
from alexnet.evaluation import feature_files
from alexnet.evaluation.feature_files import About, is_features, matlab_names, read_features
from alexnet.evaluation.features import extract, gather
from alexnet.weights.run import open_run
from tests.pictures import write_folder

LAYERS = ["conv5:relu", "fc7", "features.0"]
NAMES = ["f.npy", "f.npz", "f.h5", "f.mat", "f.parquet"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = write_folder(tmp_path_factory.mktemp("pictures") / "set", classes=2, each=5)
    (made / "class0").rename(made / "caf\u00e9 \U0001f339")
    (made / "class1" / "000.png").rename(made / "class1" / "a\nb.png")
    return made


@pytest.fixture(scope="module")
def expected(folder):
    return gather(open_run("tiny"), open_source(folder), LAYERS, batch_size=4, threads=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, folder) -> Path:
    """A file of each kind."""
    place = tmp_path_factory.mktemp("files")
    for name in NAMES:
        layers = ["fc7"] if name == "f.npy" else LAYERS
        extract(open_run("tiny"), open_source(folder), layers, place / name, source="set", batch_size=4, threads=1)
    return place


@pytest.fixture
def files(whole, tmp_path) -> Path:
    shutil.copytree(whole, tmp_path / "files")
    return tmp_path / "files"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read_back(name, whole, expected):
    found = read_features(whole / name)
    assert found.keys == expected.keys and found.classes == expected.classes
    assert (found.labels == expected.labels).all() and found.labels.dtype == np.int64
    assert list(found.values) == (["fc7"] if name == "f.npy" else LAYERS)
    for layer, values in found.values.items():
        assert values.dtype == np.float32 and np.array_equal(values, expected.values[layer]), layer
    assert found.matrix("fc7").shape == (10, 512)
    assert list(read_features(whole / name, ["fc7"]).values) == ["fc7"] and not read_features(whole / name, ()).values
    with pytest.raises(UsageError, match="holds no layer fc6; it holds"):
        read_features(whole / name, ["fc6"])


def test_numpy_reads_npy_and_npz(whole, expected):
    assert np.array_equal(np.load(whole / "f.npy", allow_pickle=False), expected.values["fc7"])
    said = json.loads((whole / "f.npy.json").read_text())
    assert said["key"] == expected.keys and said["label"] == expected.labels.tolist()
    with np.load(whole / "f.npz", allow_pickle=False) as found:
        assert np.array_equal(found["conv5:relu"], expected.values["conv5:relu"])
        assert found["key"].tolist() == expected.keys and found["label"].tolist() == expected.labels.tolist()
        assert found["classes"].tolist() == ["caf\u00e9 \U0001f339", "class1"]
        assert json.loads(str(found["about"]))["about"]["layers"]["features.0"] == "conv1"
    with zipfile.ZipFile(whole / "f.npz") as archive:
        assert archive.testzip() is None


def test_h5py_reads_hdf5(whole, expected):
    with h5py.File(whole / "f.h5") as found:
        assert np.array_equal(found["features.0"][()], expected.values["features.0"])
        assert found["key"].asstr()[()].tolist() == expected.keys
        assert found["classes"].asstr()[()].tolist() == list(expected.classes.keys)
        assert found["label"][()].tolist() == expected.labels.tolist()


def test_a_mat_file_is_as_matlab_writes_it(whole, expected):
    """MATLAB takes HDF5's axes in the opposite order, names its own classes, and looks at the first 128 bytes."""
    head = (whole / "f.mat").read_bytes()[:520]
    assert head.startswith(b"MATLAB 7.3 MAT-file, ") and head[116:128] == bytes(8) + b"\x00\x02IM"
    assert head[512:520] == b"\x89HDF\r\n\x1a\n"
    with h5py.File(whole / "f.mat") as found:
        for name, layer in (("conv5_relu", "conv5:relu"), ("fc7", "fc7"), ("features_0", "features.0")):
            in_matlab = np.transpose(found[name][()])
            assert np.array_equal(in_matlab, expected.values[layer]) and found[name].attrs["MATLAB_class"] == b"single"
        rows = [row.tobytes().decode("utf-16-le").rstrip() for row in np.ascontiguousarray(found["key"][()].T)]
        assert rows == expected.keys and found["key"].attrs["MATLAB_class"] == b"char"
        assert found["label"].shape == (1, 10) and found["label"].attrs["MATLAB_class"] == b"int64"
    with pytest.raises(UsageError, match="called alike in MATLAB"):
        matlab_names(["conv5:relu", "conv5_relu"])


def test_arrow_reads_parquet(whole, expected):
    table = pq.read_table(whole / "f.parquet")
    assert table["key"].to_pylist() == expected.keys and table["label"].to_pylist() == expected.labels.tolist()
    assert table["class"].to_pylist() == [expected.classes.keys[label] for label in expected.labels]
    values = np.array(table["conv5:relu"].to_pylist(), np.float32).reshape(10, 32, 3, 3)
    assert np.array_equal(values, expected.values["conv5:relu"])


@pytest.mark.parametrize("name", NAMES)
def test_pictures_without_labels_and_halves_and_views(name, folder, tmp_path):
    samples, dtype = open_images(folder / "class1"), "float32" if name == "f.mat" else "float16"
    layers = ["fc7"] if name == "f.npy" else ["conv5:relu", "fc7"]
    extract(open_run("tiny"), samples, layers, tmp_path / name, source="set", dtype=dtype, views=5, batch_size=10,
            threads=1)  # fmt: skip
    found = read_features(tmp_path / name)
    plain = gather(open_run("tiny"), samples, ["fc7"], views=5, batch_size=10, threads=1)
    assert found.keys == samples.keys() and (found.labels == -1).all() and not len(found.classes)
    assert found.values["fc7"].shape == (5, 5, 512) and found.values["fc7"].dtype.name == dtype
    assert np.array_equal(found.values["fc7"], plain.values["fc7"].astype(dtype))
    assert found.matrix("fc7").shape == (5, 512) and found.matrix("fc7").dtype == np.float32
    np.testing.assert_allclose(found.matrix("fc7"), plain.values["fc7"].mean(1), rtol=2e-3, atol=1e-5)


def test_blocks_of_any_size_are_the_same_bytes(whole, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_files, "CHUNK", 4000)
    monkeypatch.setattr("alexnet.files.PIECE", 5000)
    for name in ("f.npz", "f.h5"):
        extract(open_run("tiny"), open_source(folder), LAYERS, tmp_path / name, source="set", batch_size=4, threads=1)
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    for name in ("f.mat", "f.parquet"):  # theirs keep the size of a block
        extract(open_run("tiny"), open_source(folder), LAYERS, tmp_path / name, source="set", batch_size=4, threads=1)
        found, other = read_features(tmp_path / name), read_features(whole / name)
        assert all(np.array_equal(found.values[layer], other.values[layer]) for layer in LAYERS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.999])
def test_a_file_cut_short_is_named(name, share, files):
    content = (files / name).read_bytes()
    (files / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=name):
        read_features(files / name)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_something_else_is_named(name, files):
    for content in (b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x89HDF\r\n\x1a\n", b"PAR1" * 9, bytes(3000)):
        (files / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            read_features(files / name)
    (files / name).unlink()
    with pytest.raises(DataError, match="no such file"):
        read_features(files / name)
    assert is_features(files / name) and not is_features(files / "f.txt")
    with pytest.raises(UsageError, match=r"f\.txt: no file of features"):
        read_features(files / "f.txt")


def changed(files: Path, change) -> Path:
    """f.npy, with its index changed."""
    said = json.loads((files / "f.npy.json").read_text())
    change(said)
    (files / "f.npy.json").write_text(json.dumps(said))
    return files / "f.npy"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda said: said.clear(), "says nothing|not features"),
        (lambda said: said["key"].pop(), "label: expected a whole number for each of 9"),
        (lambda said: said.update(key=[1] * 10), "key: not the names"),
        (lambda said: said["label"].__setitem__(0, 2), "label: of a class that is not there"),
        (lambda said: said["label"].__setitem__(0, -2), "label: of a class that is not there"),
        (lambda said: said["label"].__setitem__(0, 0.5), "label: expected a whole number"),
        (lambda said: said["label"].__setitem__(0, "a"), "label"),
        (lambda said: said["about"].update(schema=2), "not features of schema 1"),
        (lambda said: said["about"].update(views="1"), "views: not what"),
        (lambda said: said["about"].update(views=True), "views: not what"),
        (lambda said: said["about"].update(dtype="object"), "dtype"),
        (lambda said: said["about"].update(dtype="float16"), r"fc7: float32 \(10, 512\), expected float16"),
        (lambda said: said["about"]["shapes"].update(fc7=[511]), r"expected float32 \(10, 511\)"),
        (lambda said: said["about"]["shapes"].update(fc7=[-512]), "shapes"),
        (lambda said: said["about"]["shapes"].update(fc7=512), "shapes"),
        (lambda said: said["about"]["shapes"].update(fc6=[512]), "shapes"),
        (lambda said: said["about"].pop("network"), "network: not what"),
        (lambda said: said["about"].update(more=1), "layers, shapes"),
        (lambda said: said["classes"].__setitem__(0, {"key": "a\x00", "words": "b"}), "class"),
        (lambda said: said.update(about=[1]), "not features of schema"),
        (lambda said: said["about"].update(layers={"fc7\x1b]0;a": "fc7"}, shapes={"fc7\x1b]0;a": [512]}), "layers, shapes"),
        (lambda said: said["about"].update(layers={"fc7": "fc7\x07"}), "layers, shapes"),
    ],
)  # fmt: skip
def test_an_index_that_does_not_fit_is_named_with_its_field(change, says, files):
    with pytest.raises(DataError, match=says) as caught:
        read_features(changed(files, change))
    assert "f.npy" in str(caught.value) and str(caught.value).isprintable()


def test_a_strangers_name_is_escaped(files):
    found = read_features(changed(files, lambda said: said["key"].__setitem__(0, "a\x1b[31m\n")))
    assert found.keys[0] == "a\\x1b[31m\\n" and found.keys[9].isprintable()


def test_an_index_that_is_missing_or_no_json(files):
    (files / "f.npy.json").write_text("{")
    with pytest.raises(DataError, match=r"f\.npy\.json"):
        read_features(files / "f.npy")
    (files / "f.npy.json").write_text("[]")
    with pytest.raises(DataError, match="expected a JSON object"):
        read_features(files / "f.npy")
    (files / "f.npy.json").unlink()
    with pytest.raises(DataError, match=r"f\.npy\.json: missing"):
        read_features(files / "f.npy")


def header(shape: str, descr: str = "<f4", order: str = "False") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        header("(10, 512)", "|O") + b"cposix\nsystem\n(S'touch canary'\ntR." * 700,
        header("(1000000000000, 512)") + bytes(20480),
        header("(10, 512)", order="True") + bytes(20480),
        header("(10, 512)", ">f4") + bytes(20480),
        header("(10, 512)", "<c8") + bytes(40960),
        header("(10, -512)") + bytes(20480),
        header("__import__('os').system('touch canary')") + bytes(20480),
        header("(10, 512)") + bytes(20479),
        header("(10, 512)") + bytes(20484),
    ],
    ids=range(9),
)
def test_no_array_is_more_than_its_bytes(content, files, monkeypatch):
    monkeypatch.chdir(files)
    Path("f.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"f\.npy"):
        read_features(Path("f.npy"))
    with zipfile.ZipFile("f.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for compressed in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile("f.npz", "w", compressed) as archive:
            for name, there in members.items():
                archive.writestr(name, content if name == "fc7.npy" else there)
        with pytest.raises(DataError, match=r"f\.npz"):
            read_features(Path("f.npz"))
    assert not Path("canary").exists()


@pytest.mark.parametrize("name", ["about", "key"])
def test_letters_that_are_none(name, files, monkeypatch):
    """numpy keeps four bytes a letter, and any number in them is one to it."""
    monkeypatch.chdir(files)
    with zipfile.ZipFile("f.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[f"{name}.npy"] = members[f"{name}.npy"][:-4] + (0x110000).to_bytes(4, "little")
    with zipfile.ZipFile("f.npz", "w") as archive:
        for one, content in members.items():
            archive.writestr(one, content)
    with pytest.raises(DataError, match=rf"f\.npz: .*{name} has letters that are none"):
        read_features(Path("f.npz"))


def rewritten(path: Path, change) -> Path:
    with h5py.File(path, "r+") as stored:
        change(stored)
    return path


@pytest.mark.parametrize("name", ["f.h5", "f.mat"])
@pytest.mark.parametrize("which", ["outside", "external", "virtual", "soft", "compressed", "hollow", "group", "gone"])
def test_hdf5_reads_no_other_file_and_nothing_that_is_not_there(name, which, files, tmp_path):
    values = np.zeros((10, 512) if name == "f.h5" else (512, 10), np.float32)
    secret = tmp_path / "secret.bin"
    secret.write_bytes(values.tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["fc7"] = values

    def change(stored) -> None:
        del stored["fc7"]
        if which == "outside":
            stored["fc7"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "fc7")
        elif which == "external":
            stored.create_dataset("fc7", values.shape, "f4", external=[(str(secret), 0, values.nbytes)])
        elif which == "virtual":
            layout = h5py.VirtualLayout(values.shape, "f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "fc7", shape=values.shape)
            stored.create_virtual_dataset("fc7", layout)
        elif which == "soft":
            stored["fc7"] = h5py.SoftLink("/label")
        elif which == "compressed":
            stored.create_dataset("fc7", data=values, compression="gzip")
        elif which == "hollow":
            stored.create_dataset("fc7", (10**7, 10**7), "f4", chunks=(100, 100))
        elif which == "group":
            stored.create_group("fc7")

    with pytest.raises(DataError, match=f"{name}: fc7: "):
        read_features(rewritten(files / name, change))


def test_parquet_of_something_else(files, tmp_path):
    table = pq.read_table(files / "f.parquet")

    def written(table: pa.Table, **options) -> Path:
        pq.write_table(table, tmp_path / "g.parquet", **{"compression": "NONE", **options})
        return tmp_path / "g.parquet"

    hollow = pa.table(
        {name: column if name != "fc7" else
         pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(10 * 512, np.float32)), 512)
         for name, column in zip(table.column_names, table.columns, strict=True)},
        schema=table.schema,
    ).select(["key", "label", "class", "fc7"])  # fmt: skip
    for made, says in (
        (table.replace_schema_metadata(None), "says nothing"),
        (table.drop_columns(["label"]), "label"),
        (table.set_column(0, "key", pa.array([None] * 10, pa.string())), "key"),
        (table.set_column(4, "fc7", pa.array(["x"] * 10)), "fc7"),
        (table.set_column(4, "fc7", pa.array([[0.5]] * 10, pa.list_(pa.float32(), 1))), "fc7"),
    ):
        with pytest.raises(DataError, match=says):
            read_features(written(made), ["fc7"])
    with pytest.raises(DataError, match=r"fc7: 10 rows of \[512\] are not in"):
        read_features(written(hollow), ["fc7"])
    with pytest.raises(DataError, match="compressed by ZSTD, expected UNCOMPRESSED"):
        read_features(written(table, compression="zstd"), ["fc7"])
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10, np.int32)), pa.array(["x" * 10**6])).cast(pa.string())
    with pytest.raises(DataError, match="key: names that are more than the file"):
        read_features(written(table.set_column(0, "key", long)), ())
    with pytest.raises(DataError, match="cannot be read"):
        read_features(written(table.set_column(0, "key", long), use_dictionary=["label"],
                              column_encoding={"key": "DELTA_BYTE_ARRAY"}), ())  # fmt: skip
    with pytest.raises(DataError, match="rows in"):
        read_features(written(pa.table({name: pa.nulls(10**6, table[name].type) for name in ("key", "label")},
                                       metadata=table.schema.metadata)), ())  # fmt: skip


WRITE = """
import resource, sys
from pathlib import Path
import numpy as np
from alexnet.data.classes import Classes
from alexnet.evaluation.feature_files import About, Index, Part, write_features

out, limit = Path(sys.argv[1]), int(sys.argv[2])
values = np.arange(40 * 3000, dtype=np.float32).reshape(40, 3000)
parts = []
for name in ("conv5", "fc7"):
    path = out.with_name(f"{name}.npy")
    np.save(path, values, allow_pickle=False)
    parts.append(Part(name, path, (3000,), values.dtype))
about = About("run", "tiny", "0" * 64, {}, {"conv5": "conv5", "fc7": "fc7"}, {"conv5": [3000], "fc7": [3000]}, 1, False,
              "float32", 64, "cpu", "set", "1" * 64, [])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    write_features(out, parts, Index(about, [f"{i}.jpg" for i in range(40)], np.full(40, -1), Classes((), ())))
except OSError as reason:
    print(reason.strerror)
"""


@pytest.mark.parametrize("name", NAMES[1:])
def test_no_room_is_an_error_like_any_other(name, tmp_path):
    """Of a process that ends well and says nothing else; HDF5 by itself ends it, or speaks at its end."""

    def written(limit: int) -> str:
        words = [sys.executable, "-c", WRITE, str(tmp_path / name), str(limit)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        assert not done.stderr
        return done.stdout

    assert not written(0)
    size = (tmp_path / name).stat().st_size
    (tmp_path / name).unlink()
    for limit in (100, 100_000, 480_000 + 700, size - 700, size - 1):
        assert written(limit) == "File too large\n", limit
        assert {path.name for path in tmp_path.iterdir()} == {"conv5.npy", "fc7.npy"}
    assert not written(size) and (tmp_path / name).stat().st_size == size


def test_a_library_that_is_missing_is_named(whole, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match=r"h5py is not installed \(pip install 'alexnet\[features\]'\)"):
        read_features(whole / "f.h5")


def test_reading_a_stranger_imports_no_pickle(files):
    """The whole of reading in a process in which unpickling ends it."""
    program = (
        "import pickle, sys\nfrom pathlib import Path\n"
        "def never(*given, **options): sys.exit('unpickled')\n"
        "from alexnet.evaluation.feature_files import read_features\n"
        "pickle.load = pickle.loads = pickle.Unpickler = never\n"
        "for name in sys.argv[1:]: print(len(read_features(Path(name))))\n"
    )
    words = [sys.executable, "-c", program, *(str(files / name) for name in NAMES)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["10"] * 5


def test_about_says_all_of_itself(whole):
    about = read_features(whole / "f.npz").about
    assert About.from_json(json.loads(json.dumps(about.to_json())), "x") == about
    assert about.shapes == {"conv5:relu": [32, 3, 3], "fc7": [512], "features.0": [12, 15, 15]}
    assert len(about.network) == 64 and about.source == "set" and io.StringIO(about.run).read() == "tiny"
