"""No room, no right, no folder, no lock: the sentence and the exit code, and nothing lost."""

import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from alexnet.training.loop import SAVES_FAILED
from tests.faults import Row
from tests.faults.kills import EVERY, STEPS, begin, command, digest, saved_steps, some_pictures, steps_done, unbroken

LIMIT = 200_000  # bytes that a file may have: metrics fit, weights do not
AT_ONCE = 1.0  # seconds of the processor, in which a run that cannot begin has said so


def ended(words: list[str], output: Path, **more: object) -> tuple[int | None, list[str], float]:
    """The command's exit code, the lines that it said, and its seconds of the processor."""
    output.unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = begin(words, output, **more)  # type: ignore[arg-type]
    child.join()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return child.exitcode, said(output), used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime


def said(output: Path) -> list[str]:
    """The lines of a command, one at least."""
    return output.read_text().splitlines() or [""]


def failed_saves(lines: list[str]) -> list[tuple[int, int]]:
    """Of each save that a run said has failed: its step, and the how manieth in a row it was; the last ends the run."""
    found = []
    for line in lines:
        step, count = re.search(r"step-(\d{8})", line), re.search(rf"\((\d) of {SAVES_FAILED} failed saves", line)
        last = f"{SAVES_FAILED} saves in a row have failed" in line
        if step and (count or last):
            found.append((int(step[1]), SAVES_FAILED if last else int(count[1] if count else 0)))
    return found


def three_in_a_row(lines: list[str]) -> bool:
    """Whether a run ended with as many failed saves as end it, of steps an interval apart, each of them said."""
    last = failed_saves(lines)[-SAVES_FAILED:]
    return bool(last) and last == [(last[0][0] + turn * EVERY, turn + 1) for turn in range(SAVES_FAILED)]


def row(
    what: str, asked: str, code: int | None, lines: list[str], *, wanted: int, words: Iterable[str], also: bool = True,
    took: float = 0.0,
) -> Row:  # fmt: skip
    """Whether it ended with a code and a sentence that says these words, at once. Seen are its seconds and what failed;
    and all that was said but the lines of the steps where something did not hold.
    """
    held = code == wanted and all(word in lines[-1] for word in words) and also and took <= AT_ONCE
    saves = ", ".join(f"step {step} ({count})" for step, count in failed_saves(lines))
    seen = f"{code}: {lines[-1]}" + (f"; saves said to have failed: {saves}" if saves else "")
    seen += f"; {took:.1f} s" if took else ""
    return Row(
        what, 1, asked, seen if held else "\n".join([seen, *(one for one in lines if "images/s" not in one)]), held
    )


def limited() -> None:
    """No file of this process grows beyond the limit."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))


def space(source: Path, seed: int = 0) -> Iterable[Row]:
    """Each of them once."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        data = some_pictures(source, place / "pictures")
        whole, output = unbroken(place, data), place / "said"

        run = place / "limited"
        code, lines, _ = ended(command(data, run), output, before=limited)
        yield row("files may not grow (RLIMIT_FSIZE)", "4 after three failed saves, training goes on between them",
                  code, lines, wanted=4, words=("could not be saved", "MB are free", str(run)),
                  also=three_in_a_row(lines) and steps_done(run) >= 3 * EVERY and saved_steps(run) == 0)  # fmt: skip
        code, lines, _ = ended(command(data, run), output)
        yield Row("the same, the limit gone", 1, "0, and equal to the unbroken", f"{code}",
                  code == 0 and digest(run) == whole)  # fmt: skip

        out = place / "f.h5"
        features = ["features", str(run), str(data), "--layers", "fc6,fc7", "--dtype", "float16", "--out", str(out),
                    "--device", "cpu"]  # fmt: skip
        code, lines, _ = ended(features, output, before=limited)
        yield row("no room for a file of features (RLIMIT_FSIZE)", "2, and nothing half there", code, lines, wanted=2,
                  words=("cannot be written (File too large)", str(out)), also=not out.exists())  # fmt: skip
        code, lines, _ = ended(features, output)
        yield Row("the same, the limit gone", 1, "0", f"{code}", code == 0 and out.exists())

        run = place / "removed"
        endless = ["9999" if word == str(STEPS) else word for word in command(data, run)]  # it must not end before
        output.unlink()
        child = begin(endless, output)
        while child.is_alive() and saved_steps(run) < 2 * EVERY:
            time.sleep(0.001)
        run.rename(place / "elsewhere")
        shutil.rmtree(place / "elsewhere")
        child.join()
        yield row("the run's folder removed", "4 after three failed saves; it is not made again", child.exitcode,
                  said(output), wanted=4, words=("could not be saved", "the folder is gone", str(run)),
                  also=three_in_a_row(said(output)) and not run.exists())  # fmt: skip

        run = place / "locked"
        child = begin(command(data, run), place / "output")
        while child.is_alive() and steps_done(run) < 2:
            time.sleep(0.001)
        os.kill(child.pid or 0, signal.SIGSTOP)  # or it would be through before the second is there
        code, lines, took = ended(command(data, run), output)
        os.kill(child.pid or 0, signal.SIGCONT)
        child.join()
        yield row("the same run twice at a time", f"2 within {AT_ONCE:g} s, naming the process", code, lines, wanted=2,
                  words=("in use by process", str(child.pid)), also=digest(run) == whole, took=took)  # fmt: skip

        run = Path("/proc/alexnet/run")  # where not even root can make a folder
        code, lines, took = ended(command(data, run), output)
        yield row("a folder that cannot be made", f"2 within {AT_ONCE:g} s, before the first epoch", code, lines, wanted=2,
                  words=("cannot be written", str(run)), took=took)  # fmt: skip
        yield from small_disk(place, data, output, whole)


def small_disk(place: Path, data: Path, output: Path, whole: dict[str, str]) -> Iterable[Row]:
    """On a file system of 12 MB, which root may mount: filled up while a run trains, emptied again, read-only."""
    disk = place / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        yield Row("a disk of 12 MB, full and read-only", 0, "as above", "not tried: it cannot be mounted here", False)
        return
    try:
        run = disk / "run"
        output.unlink()
        child = begin(command(data, run), output)
        while child.is_alive() and saved_steps(run) < EVERY:
            time.sleep(0.001)
        with (disk / "filler").open("wb", buffering=0) as stream:
            try:
                while True:
                    stream.write(bytes(1 << 16))
            except OSError:
                pass
        child.join()
        # the first to fail is that of step 6, where `last` finds no room behind its checkpoint, or that of step 12
        yield row("the disk full while training", "4 after three failed saves", child.exitcode, said(output), wanted=4,
                  words=("could not be saved", "it needs", "MB are free", str(run)),
                  also=three_in_a_row(said(output)))  # fmt: skip
        (disk / "filler").unlink()
        code, lines, _ = ended(command(data, run), output)
        yield Row("the same, with room again", 1, "0, and equal to the unbroken", f"{code}",
                  code == 0 and digest(run) == whole)  # fmt: skip
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for what, name in (("a new run", "new"), ("a run that would go on", "run")):
            code, lines, took = ended(command(data, disk / name), output)
            yield row(f"{what} on a read-only disk", f"2 within {AT_ONCE:g} s, before the first epoch", code, lines,
                      wanted=2, words=("cannot be written", str(disk / name)), took=took)  # fmt: skip
    finally:
        subprocess.run(["umount", str(disk)], check=True)
