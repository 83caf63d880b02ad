"""The curves: what is drawn is what the log says, seeds together, others apart."""

import numpy as np
import pytest
from matplotlib.collections import FillBetweenPolyCollection

from alexnet.errors import UsageError
from alexnet.look.curves import POINTS, Trained, draw_curves, grouped, together
from alexnet.look.figures import style
from alexnet.look.metrics import Log, read_metrics
from tests.look.runs import folder, log
from tests.look.words import crowded, said


def drawn(*runs):
    """The figure, and the two panels' lines as arrays (2, N)."""
    with style():
        figure = draw_curves(runs)
        assert crowded(figure) == []
    return figure, [[line.get_xydata().T for line in axes.lines] for axes in figure.axes]


def test_one_run_is_drawn_as_it_was_logged(tmp_path):
    figure, (loss, error) = drawn(folder(tmp_path / "mine", records=log(loss=3.0, top1=0.5)))
    train, val = loss
    assert np.allclose(train, [[0.5, 1, 1.5, 2], [3, 1.5, 1, 0.75]]) and np.allclose(val, [[1, 2], [2.5, 1.75]])
    train, val = error
    assert np.allclose(train, [[0.5, 1, 1.5, 2], [50] * 4]) and np.allclose(val, [[1, 2], [75, 75]])
    assert "mine (best error 75.0 %)" in said(figure) and "held out, top-5" not in said(figure)


def test_top5_is_drawn_where_it_says_something(tmp_path):
    figure, (_, error) = drawn(folder(tmp_path / "mine", records=log(loss=3.0, top1=0.5, top5=0.8)))
    assert np.allclose(error[2], [[1, 2], [20, 20]]) and "held out, top-5" in said(figure)


def test_seeds_are_a_mean_with_its_spread_and_others_lines_of_their_own(tmp_path):
    runs = [
        folder(tmp_path / f"s{seed}", records=log(loss=3.0 + seed, top1=0.4 + 0.1 * seed), seed=seed, workers=seed)
        for seed in range(3)
    ]
    other = folder(tmp_path / "other", records=log(loss=9.0, top1=0.1), seed=4, lr=0.5)
    figure, (loss, error) = drawn(*runs, other)
    assert len(loss) == 4 and np.allclose(loss[0], [[0.5, 1, 1.5, 2], [4, 2, 4 / 3, 1]])
    assert np.allclose(error[0][1], 50)
    bands = [one for axes in figure.axes for one in axes.collections if isinstance(one, FillBetweenPolyCollection)]
    assert len(bands) == 4  # train and val, of loss and error
    heights = [band.get_paths()[0].vertices[:, 1] for band in bands]
    assert heights[0].min() == pytest.approx(0.75) and heights[0].max() == pytest.approx(5.0)
    assert heights[2].min() == pytest.approx(40) and heights[2].max() == pytest.approx(60)
    assert "s0, s1, s2: mean of 3 seeds, and from the least to the most (best error 75.0 %)" in said(figure)
    assert "other (best error 95.0 %)" in said(figure)


@pytest.mark.parametrize("change", [{"lr": 0.5}, {"source": "others"}, {"variant": "tiny"}, {"steps": 50}])
def test_what_differs_in_more_than_the_seed_is_another_training(tmp_path, change):
    both = [
        folder(tmp_path / "a", records=log(loss=1, top1=0)),
        folder(tmp_path / "b", records=log(loss=1, top1=0), seed=1, **change),
    ]
    assert [len(group) for group in grouped([Trained(run, read_metrics(run)) for run in both])] == [1, 1]


def test_only_the_steps_that_all_seeds_have_are_averaged(tmp_path):
    short, long = (
        Trained(folder(tmp_path / str(n), records=log(loss=1, top1=0, steps=n)), Log(log(loss=n, top1=0, steps=n)))
        for n in (20, 40)
    )
    assert np.allclose(together([long, short], "train", "loss"), [[0.5, 1], [30, 15], [20, 10], [40, 20]])
    assert together([long, Trained(short.run, Log())], "val", "loss").shape == (4, 0)


def test_a_long_log_is_averaged_into_points(tmp_path):
    records = log(loss=1, top1=0.5, steps=10 * 3 * POINTS)
    _, (loss, _) = drawn(folder(tmp_path / "long", records=records))
    values = np.array([one["loss"] for one in records if one["split"] == "train"]).reshape(POINTS, 3).mean(1)
    assert loss[0].shape == (2, POINTS) and np.allclose(loss[0][1], values)


def test_names_are_told_apart_and_no_markup(tmp_path):
    runs = [
        folder(tmp_path / place / "$x^{2$", records=log(loss=1, top1=0.5), lr=lr) for place, lr in (("a", 1), ("b", 2))
    ]
    figure, _ = drawn(*runs)
    assert sum("best error" in one for one in said(figure)) == 2
    figure, _ = drawn(runs[0])
    assert "$x^{2$ (best error 75.0 %)" in said(figure)


def test_a_run_without_validation_has_its_training_drawn(tmp_path):
    records = [one for one in log(loss=1, top1=0.5) if one["split"] == "train"]
    figure, (loss, _) = drawn(folder(tmp_path / "mine", records=records))
    assert len(loss) == 1 and "mine" in said(figure)


def test_what_cannot_be_drawn_is_said(tmp_path):
    with style(), pytest.raises(UsageError, match=r"none/metrics\.jsonl: missing or empty"):
        draw_curves([folder(tmp_path / "none")])
    many = [folder(tmp_path / str(n), records=log(loss=1, top1=0), lr=float(n)) for n in range(1, 16)]
    with style(), pytest.raises(UsageError, match="15 different trainings: 14 at most"):
        draw_curves(many)
