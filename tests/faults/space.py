"""No room, no right, no folder, no lock: the sentence and the exit code, and nothing lost."""

import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from tests.faults import Row
from tests.faults.kills import EVERY, STEPS, begin, command, digest, saved_steps, some_pictures, steps_done, unbroken

LIMIT = 200_000  # bytes that a file may have: metrics fit, weights do not


def ended(words: list[str], output: Path, **more: object) -> tuple[int | None, str, float]:
    """The command's exit code, its last line and its seconds."""
    output.unlink(missing_ok=True)
    begun = time.monotonic()
    child = begin(words, output, **more)  # type: ignore[arg-type]
    child.join()
    lines = output.read_text().splitlines() or [""]
    return child.exitcode, lines[-1], time.monotonic() - begun


def row(
    what: str, asked: str, code: int | None, line: str, *, wanted: int, words: Iterable[str], also: bool = True
) -> Row:
    """Whether it ended with a code and a sentence that says these words."""
    held = code == wanted and all(word in line for word in words) and also
    return Row(what, 1, asked, f"{code}: {line}", held)


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
        code, line, _ = ended(command(data, run), output, before=limited)
        yield row("files may not grow (RLIMIT_FSIZE)", "4 after three failed saves, training goes on between them",
                  code, line, wanted=4, words=("could not be saved", "MB are free", str(run)),
                  also=steps_done(run) >= 3 * EVERY and saved_steps(run) == 0)  # fmt: skip
        code, line, _ = ended(command(data, run), output)
        yield Row("the same, the limit gone", 1, "0, and equal to the unbroken", f"{code}",
                  code == 0 and digest(run) == whole)  # fmt: skip

        run = place / "removed"
        endless = ["9999" if word == str(STEPS) else word for word in command(data, run)]  # it must not end before
        child = begin(endless, output)
        while child.is_alive() and saved_steps(run) < 2 * EVERY:
            time.sleep(0.001)
        run.rename(place / "elsewhere")
        shutil.rmtree(place / "elsewhere")
        child.join()
        line = output.read_text().splitlines()[-1]
        yield row("the run's folder removed", "4 after three failed saves; it is not made again", child.exitcode, line,
                  wanted=4, words=("could not be saved", "the folder is gone", str(run)), also=not run.exists())  # fmt: skip

        run = place / "locked"
        child = begin(command(data, run), place / "output")
        while child.is_alive() and steps_done(run) < 2:
            time.sleep(0.001)
        os.kill(child.pid or 0, signal.SIGSTOP)  # or it would be through before the second is there
        code, line, _ = ended(command(data, run), output)
        os.kill(child.pid or 0, signal.SIGCONT)
        child.join()
        yield row("the same run twice at a time", "2 at once, naming the process", code, line, wanted=2,
                  words=("in use by process", str(child.pid)), also=digest(run) == whole)  # fmt: skip

        run = Path("/proc/alexnet/run")  # where not even root can make a folder
        code, line, _ = ended(command(data, run), output)
        yield row("a folder that cannot be made", "2, before the first epoch", code, line, wanted=2,
                  words=("cannot be written", str(run)))  # fmt: skip
        if os.geteuid() == 0:
            yield from small_disk(place, data, output, whole)


def small_disk(place: Path, data: Path, output: Path, whole: dict[str, str]) -> Iterable[Row]:
    """On a file system of 12 MB, which root may mount: filled up while a run trains, emptied again, read-only."""
    disk = place / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        return
    try:
        run = disk / "run"
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
        line = output.read_text().splitlines()[-1]
        failed = {one.partition(": could not be saved")[0] for one in output.read_text().splitlines()
                  if ": could not be saved" in one}  # fmt: skip
        yield row("the disk full while training", "4 after three failed saves", child.exitcode, line, wanted=4,
                  words=("could not be saved", "it needs", "MB are free", str(run)), also=len(failed) == 3)  # fmt: skip
        (disk / "filler").unlink()
        code, line, _ = ended(command(data, run), output)
        yield Row("the same, with room again", 1, "0, and equal to the unbroken", f"{code}",
                  code == 0 and digest(run) == whole)  # fmt: skip
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for what, name in (("a new run", "new"), ("a run that would go on", "run")):
            code, line, _ = ended([*command(data, disk / name), "--epochs", "99"][:-2], output)
            yield row(f"{what} on a read-only disk", "2, before the first epoch", code, line, wanted=2,
                      words=("cannot be written", str(disk / name)))  # fmt: skip
    finally:
        subprocess.run(["umount", str(disk)], check=True)
