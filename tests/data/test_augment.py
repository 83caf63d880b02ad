"""What training varies and what evaluation sees, against loops and slices by hand, and torchvision."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, chisquare, kstest
from torchvision.transforms import CenterCrop, TenCrop
from torchvision.transforms.v2 import functional as V2

from alexnet.data import augment
from alexnet.data.augment import Augment, Cuts, Normalise, light_of, train_views
from alexnet.data.preprocess import Preprocess

S, s = 21, 16
RECORD = Preprocess(
    side=s, stored=S, resize="shorter", filter="bilinear", exif=True, decode="full", colour="RGB", scale=1.0,
    mean=(0.0, 0.0, 0.0), mean_crop="centre", std=(1.0, 1.0, 1.0),
)  # fmt: skip
CPU = torch.device("cpu")
MEAN = np.random.default_rng(9).uniform(0, 255, (S, S, 3)).astype(np.float32)
# each pixel says where it stands: red its row, green its column
MAP = torch.from_numpy(np.stack([*np.mgrid[0:S, 0:S], np.zeros((S, S))], -1).astype(np.uint8))


def noise(count: int, size: int = S) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (count, size, size, 3), np.uint8))


def views(images, n, record=RECORD, mean=None, chosen=Augment(), seed=3, epoch=2, **colours):  # noqa: B008
    return train_views(images, n, Normalise(record, mean, CPU), chosen, seed=seed, epoch=epoch, **colours)


def crops(n: np.ndarray, chosen: Augment = Augment(), seed: int = 3, epoch: int = 2) -> list[tuple[int, int, bool]]:  # noqa: B008
    """(top, left, mirrored) of each place, as the map tells them."""
    found = views(MAP.expand(len(n), S, S, 3), n, chosen=chosen, seed=seed, epoch=epoch).numpy()
    made = []
    for red, green, _ in found:
        top, mirrored = int(red[0, 0]), green[0, 0] > green[0, 1]
        left = int(green[0].min())
        run = np.arange(s)
        assert np.array_equal(red, np.repeat(top + run[:, None], s, 1))
        assert np.array_equal(green, np.repeat(left + (run[::-1] if mirrored else run)[None], s, 0))
        made.append((top, left, bool(mirrored)))
    return made


def test_every_crop_occurs_evenly_and_half_are_mirrored():
    made = np.array(crops(np.arange(4000)))
    places = S - s + 1
    for axis in (0, 1):
        counts = np.bincount(made[:, axis], minlength=places)
        assert len(counts) == places and counts.min() > 0
        assert chisquare(counts).pvalue > 1e-3
    together = np.bincount(made[:, 0] * places + made[:, 1], minlength=places**2)
    assert together.min() > 0 and chisquare(together).pvalue > 1e-3
    assert binomtest(int(made[:, 2].sum()), len(made), 0.5).pvalue > 1e-3
    assert abs(np.corrcoef(made.T) - np.eye(3)).max() < 0.06


def test_a_draw_belongs_to_seed_epoch_and_n_alone():
    n = np.arange(50)
    alone = [crops(n[i : i + 1])[0] for i in n]
    assert crops(n) == alone and crops(n[::-1])[::-1] == alone
    assert crops(n, seed=4) != alone and crops(n, epoch=3) != alone


def test_nothing_is_varied_that_was_not_asked_for():
    still = Augment(mirror=False, random_crop=False)
    assert set(crops(np.arange(40), still)) == {(2, 2, False)}
    assert {c[2] for c in crops(np.arange(40), Augment(mirror=False))} == {False}
    assert {c[:2] for c in crops(np.arange(40), Augment(random_crop=False))} == {(2, 2)}


@pytest.mark.parametrize("colour", ["RGB", "BGR"])
@pytest.mark.parametrize("mean", ["channels", "centre", "aligned"])
def test_against_a_loop_by_hand(colour, mean):
    record = replace(
        RECORD, colour=colour, scale=0.5, std=(2.0, 3.0, 5.0),
        mean=(10.0, 20.0, 30.0) if mean == "channels" else "mean.npy", mean_crop="aligned" if mean == "aligned" else "centre",
    )  # fmt: skip
    images, n = noise(30), np.arange(100, 130)
    found = views(images, n, record, None if mean == "channels" else MEAN)
    assert found.shape == (30, 3, s, s) and found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    where = crops(n)
    assert {True, False} == {mirrored for *_, mirrored in where}
    for x, image, (top, left, mirrored) in zip(found.numpy(), images.numpy(), where, strict=True):
        crop = image[top : top + s, left : left + s].astype(np.float64)
        if colour == "BGR":
            crop = crop[:, :, ::-1]
        if mean == "aligned":  # Caffe: subtracted where the crop was cut, mirrored afterwards
            crop = crop - MEAN[top : top + s, left : left + s]
            crop = crop[:, ::-1] if mirrored else crop
        else:  # the 2012 program: the mean's centre, the same for every crop, never mirrored
            crop = crop[:, ::-1] if mirrored else crop
            crop = crop - (MEAN[2 : 2 + s, 2 : 2 + s] if mean == "centre" else np.array([10.0, 20.0, 30.0]))
        by_hand = (crop * 0.5 / np.array([2.0, 3.0, 5.0])).transpose(2, 0, 1)
        assert np.abs(x - by_hand).max() <= 1e-6 * np.abs(by_hand).max()


def test_a_crop_of_the_original_takes_the_means_centre():
    record = replace(RECORD, mean="mean.npy", mean_crop="aligned")
    images = noise(6, s)
    found = views(images, np.arange(6), record, MEAN, Augment(mirror=False))
    by_hand = images.numpy() - MEAN[2 : 2 + s, 2 : 2 + s]
    assert np.abs(found.numpy() - by_hand.transpose(0, 3, 1, 2)).max() < 1e-4


AXES = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
VALUES = np.array([5000.0, 300.0, 40.0])


def test_colour_noise_is_a_tenth_of_each_axis_deviation():
    n = np.arange(5000)
    images = noise(1).expand(len(n), S, S, 3)
    still = Augment(mirror=False, random_crop=False)
    noisy = replace(still, colour_noise=0.1)
    small = replace(RECORD, side=2)
    added = views(images, n, small, chosen=noisy, eigenvalues=VALUES, eigenvectors=AXES) - views(
        images, n, small, chosen=still
    )
    shift = added[:, :, 0, 0].double().numpy()  # (B, 3)
    assert (added - added[:, :, :1, :1]).abs().max() < 1e-3, "one shift for a whole picture"
    along = shift @ AXES  # the columns are the axes
    wanted = 0.1 * np.sqrt(VALUES)
    assert np.abs(along.std(0) / wanted - 1).max() < 0.05
    assert abs(np.corrcoef(along.T) - np.eye(3)).max() < 0.06
    for axis in range(3):
        assert kstest(along[:, axis] / wanted[axis], "norm").pvalue > 1e-3


def test_the_rescale_of_2012_divides_what_is_noisy():
    images, n = noise(5), np.arange(5)
    colours = {"eigenvalues": VALUES, "eigenvectors": AXES}
    record = replace(RECORD, mean=(100.0, 110.0, 120.0))
    plain = views(images, n, record, chosen=Augment(colour_noise=0.1), **colours)
    rescaled = views(images, n, record, chosen=Augment(colour_noise=0.1, colour_rescale=True), **colours)
    assert torch.allclose(rescaled * 1.1, plain, rtol=1e-6, atol=1e-4)
    with pytest.raises(ValueError, match="eigenvalues"):
        views(images, n, chosen=Augment(colour_noise=0.1))


LIGHTS = {"brightness": V2.adjust_brightness, "contrast": V2.adjust_contrast, "saturation": V2.adjust_saturation}


@pytest.mark.parametrize("what", LIGHTS)
@pytest.mark.parametrize("u", [0.0, 0.25, 0.75, 1.0])
def test_light_is_torchvisions(what, u):
    # pictures with colours and edges of their own, not noise about one grey
    images = (noise(4).float() * torch.linspace(0.3, 1.0, 4)[:, None, None, None]).round()
    draws = np.full((4, 3), 0.5)
    draws[:, list(LIGHTS).index(what)] = u
    normalise = Normalise(replace(RECORD, side=S), None, CPU)
    where = np.zeros((4, 7), np.int32)
    where[:, 0] = np.arange(4)
    cuts = Cuts(where, light_of(draws, Augment(**{what: 0.4}), normalise))
    found = augment.made(images.byte(), cuts, normalise, torch.float32)
    factor = 1 + (2 * u - 1) * 0.4
    # on floats in 0..1, where torchvision rounds nothing
    theirs = torch.stack([255 * LIGHTS[what](image.permute(2, 0, 1) / 255, factor) for image in images])
    assert (found - theirs).abs().max() <= 0.1
    assert (found - images.permute(0, 3, 1, 2)).abs().max() > 5, "nothing was changed"


def test_light_draws_within_its_bounds():
    grey = torch.full((1, S, S, 3), 100, dtype=torch.uint8).expand(3000, S, S, 3)
    found = views(grey, np.arange(3000), replace(RECORD, side=1), chosen=Augment(brightness=0.2)).flatten(1)
    factor = found[:, 0].numpy() / 100
    assert kstest((factor - 0.8) / 0.4, "uniform").pvalue > 1e-3
    assert (found == found[:, :1]).all()


@pytest.mark.parametrize("mean", ["centre", "aligned"])
def test_the_papers_views_by_slices(mean):
    record = replace(RECORD, mean="mean.npy", mean_crop=mean, scale=0.25)
    normalise, images = Normalise(record, MEAN, CPU), noise(3)
    e, m = S - s, (S - s) // 2
    corners = [(0, 0), (0, e), (m, m), (e, 0), (e, e)]  # [CODE12]'s order
    for count, starts in ((1, [(m, m)]), (5, corners), (10, corners + corners)):
        found = augment.test_views(images, normalise, views=count)
        assert found.shape == (3 * count, 3, s, s)
        assert found.is_contiguous(memory_format=torch.channels_last)
        for i, image in enumerate(images.numpy()):
            for v, (y, x) in enumerate(starts):
                crop, part = image[y : y + s, x : x + s].astype(np.float64), MEAN[m : m + s, m : m + s]
                if mean == "aligned":
                    part = MEAN[y : y + s, x : x + s]
                    part = part[:, ::-1] if v >= 5 else part
                crop = crop[:, ::-1] if v >= 5 else crop
                by_hand = ((crop - part) * 0.25).transpose(2, 0, 1)
                assert np.abs(found[i * count + v].numpy() - by_hand).max() < 1e-4, (count, v)


def test_ten_views_are_torchvisions_ten_crops():
    images, normalise = noise(2, 32), Normalise(replace(RECORD, stored=32), None, CPU)
    found = augment.test_views(images, normalise, views=10).view(2, 10, 3, s, s)
    one = augment.test_views(images, normalise, views=1)
    for i in range(2):
        image = images[i].permute(2, 0, 1).float()
        theirs = {crop.contiguous().numpy().tobytes() for crop in TenCrop(s)(image)}
        assert len(theirs) == 10 and {view.contiguous().numpy().tobytes() for view in found[i]} == theirs
        assert torch.equal(one[i], CenterCrop(s)(image))


def test_other_numbers_of_views_are_refused():
    with pytest.raises(ValueError, match="1, 5 or 10"):
        augment.test_views(noise(1), Normalise(RECORD, None, CPU), views=3)


FULL = Augment(colour_noise=0.1, colour_rescale=True, brightness=0.2, contrast=0.3, saturation=0.2)
VARIED = [Augment(), Augment(mirror=False, random_crop=False), Augment(colour_noise=0.1, colour_rescale=True),
          Augment(brightness=0.2, contrast=0.2, saturation=0.2), FULL]  # fmt: skip


def every_record() -> list[tuple[Preprocess, np.ndarray | None]]:
    """Each order of channels with each kind of mean, all with a scale and a std."""
    made = []
    for colour in ("RGB", "BGR"):
        record = replace(RECORD, colour=colour, scale=0.7, std=(0.9, 1.1, 1.3), mean=(10.0, 20.0, 30.0))
        image = replace(record, mean="mean.npy")
        made += [(record, None), (image, MEAN), (replace(image, mean_crop="aligned"), MEAN)]
    return made


def all_views(record, mean, dtype) -> list[torch.Tensor]:
    """Every augmentation, on stored forms and on crops of originals, and the ten views."""
    n, colours = np.arange(40, 57), {"eigenvalues": VALUES, "eigenvectors": AXES}
    normalise = Normalise(record, mean, CPU)
    found = [views(noise(17, size), n, record, mean, chosen, dtype=dtype, **colours)
             for chosen in VARIED for size in (S, s)]  # fmt: skip
    return [*found, augment.test_views(noise(3), normalise, views=10, dtype=dtype)]


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    """The compiled kernel for any number of pictures: elsewhere a few are plain torch's."""
    monkeypatch.setattr(augment, "FEW", 0)


def test_a_few_pictures_load_no_compiler(monkeypatch):
    record, mean = every_record()[0]
    compiled = views(noise(3), np.arange(3), record, mean, FULL, eigenvalues=VALUES, eigenvectors=AXES)
    monkeypatch.setattr(augment, "FEW", 3)
    monkeypatch.setattr(augment, "has_numba", lambda: pytest.fail("asked for"))
    few = views(noise(3), np.arange(3), record, mean, FULL, eigenvalues=VALUES, eigenvectors=AXES)
    assert torch.equal(few, compiled)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("record", "mean"), every_record())
def test_the_compiled_kernel_gives_the_bits_of_plain_torch(record, mean, dtype, monkeypatch):
    from alexnet.data import augment_cpu

    called, make = [], augment_cpu.make
    monkeypatch.setattr(augment_cpu, "make", lambda *given: (called.append(1), make(*given)))
    compiled = all_views(record, mean, dtype)
    monkeypatch.setattr(augment, "has_numba", lambda: False)
    plain = all_views(record, mean, dtype)
    assert len(called) == len(plain)
    for one, other in zip(compiled, plain, strict=True):
        assert one.dtype == dtype and torch.equal(one, other)
        assert one.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("plain", [False, True])
def test_no_picture_depends_on_the_others_of_its_batch_nor_on_threads(plain, monkeypatch):
    if plain:
        monkeypatch.setattr(augment, "has_numba", lambda: False)
    record, mean = every_record()[-1]
    images, n, colours = noise(11), np.arange(11), {"eigenvalues": VALUES, "eigenvectors": AXES}
    together = views(images, n, record, mean, FULL, **colours)
    for i in range(11):
        assert torch.equal(views(images[i : i + 1], n[i : i + 1], record, mean, FULL, **colours)[0], together[i])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert torch.equal(views(images, n, record, mean, FULL, **colours), together)
    finally:
        torch.set_num_threads(threads)
    assert views(images[:0], n[:0], record, mean, FULL, **colours).shape == (0, 3, s, s)


@pytest.mark.parametrize("chosen", VARIED)
def test_a_narrow_type_is_rounded_to_once(chosen):
    colours = {"eigenvalues": VALUES, "eigenvectors": AXES}
    wide = views(noise(9), np.arange(9), chosen=chosen, **colours)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(views(noise(9), np.arange(9), chosen=chosen, dtype=dtype, **colours), wide.to(dtype))


INTERPRETED = """
import torch
from alexnet.data import augment, augment_gpu
from tests.data.test_augment import all_views, every_record
for record, mean in every_record():
    for dtype in (torch.float32, torch.bfloat16):
        augment.has_numba = lambda: False
        make = augment.make
        plain = all_views(record, mean, dtype)
        augment.make = augment_gpu.make
        triton = all_views(record, mean, dtype)
        augment.make = make
        for one, other in zip(triton, plain, strict=True):
            if dtype == torch.float32:
                assert torch.equal(one, other)
            else:
                assert ((one.float() - other.float()).abs() <= 2**-7 * other.float().abs()).all()
print("equal")
"""


def test_the_accelerators_kernel_gives_the_bits_of_plain_torch():
    """In Triton's interpreter, which cuts a bfloat16 off where the hardware rounds it: a step of it apart."""
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parent.parent.parent, env={**os.environ, "TRITON_INTERPRET": "1"},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout == "equal\n", done.stderr


COMPILED = """
import itertools
import triton
from triton.backends.compiler import GPUTarget
from alexnet.data.augment_gpu import BLOCK, _kernel
for kind, everything in itertools.product(("fp32", "bf16"), (False, True)):
    pointers = {"images": "*u8", "out": f"*{kind}", "where": "*i32"} | dict.fromkeys(
        ("light", "shift", "means", "gain", "constants"), "*fp32"
    )
    numbers = dict.fromkeys(("size", "side", "mean_side", "luma0", "luma1", "luma2"), "i32")
    fixed = dict.fromkeys(("BGR", "LIGHT", "SHIFT", "IMAGE", "DIVIDED"), everything) | {"BLOCK": BLOCK}
    signature = pointers | numbers | dict.fromkeys(fixed, "constexpr")
    places = {(list(signature).index(name),): value for name, value in fixed.items()}
    source = triton.compiler.ASTSource(_kernel, signature, places)
    made = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"enable_fp_fusion": False})
    assert "fma" not in made.asm["ptx"] and ("div.rn.f32" in made.asm["ptx"]) == everything
print("compiled")
"""


def test_the_accelerators_kernel_compiles_and_joins_no_operations():
    """For a GPU that need not be here: the interpreter takes what the compiler refuses."""
    pytest.importorskip("triton")
    compiling = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parent.parent.parent, env=compiling,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout == "compiled\n", done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("record", "mean"), every_record())
def test_the_accelerator_itself_does(record, mean, dtype):
    pytest.importorskip("triton")
    images, n = noise(17), np.arange(17)
    cuda = torch.device("cuda")
    for chosen in VARIED:
        colours = {"eigenvalues": VALUES, "eigenvectors": AXES}
        there = train_views(
            images.to(cuda), n, Normalise(record, mean, cuda), chosen, seed=3, epoch=2, dtype=dtype, **colours
        )
        here = views(images, n, record, mean, chosen, dtype=dtype, **colours)
        assert (there.cpu().float() - here.float()).abs().max() <= (
            1e-6 if dtype == torch.float32 else 2**-7
        ) * here.abs().max()
