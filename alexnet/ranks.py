"""What a process computes on: its device, the precision that the device multiplies in, its threads, its memory."""

import ctypes
import os
import platform
import resource
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .errors import UsageError


def device_of(name: str) -> torch.device:
    """auto | cpu | cuda | mps -> a device that is there; one that is not is a UsageError."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if there[kind]))
    if name not in there:
        raise UsageError(f"--device {name}: unknown; known are auto, {', '.join(there)}")
    if not there[name]:
        raise UsageError(f"--device {name}: torch sees none on this machine")
    return torch.device(name)


def precision_of(name: str, device: torch.device) -> str:
    """auto | fp32 | tf32 | bf16 -> fp32, tf32 or bf16; auto takes bf16 where the hardware multiplies in it."""
    if name in ("fp32", "bf16"):
        return name
    if name == "tf32":
        if device.type != "cuda":
            raise UsageError(f"--precision tf32: NVIDIA's GPUs have it, {device.type} does not")
        return name
    if name != "auto":
        raise UsageError(f"--precision {name}: unknown; known are auto, fp32, tf32, bf16")
    return "bf16" if fast_bf16(device) else "fp32"


def fast_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies in bf16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def multiply_in(precision: str, device: torch.device) -> None:
    """Sets, for the whole process, how a GPU multiplies float32, which torch leaves to itself, and by which algorithm.

    fp32 is float32; tf32 rounds the factors to 10 bits. cuDNN tries its algorithms once for each size it meets.
    """
    if device.type == "cuda":
        way = "tf32" if precision == "tf32" else "ieee"
        torch.backends.cuda.matmul.fp32_precision = way
        torch.backends.cudnn.conv.fp32_precision = way  # pyrefly: ignore[missing-attribute]
        torch.backends.cudnn.benchmark = True


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory(device: torch.device) -> int:
    """The bytes of memory that a process may use: the device's; the machine's, or its container's if they are fewer."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    addresses = resource.getrlimit(resource.RLIMIT_AS)[0]
    return min([whole, *_limits(), *([addresses] if addresses != resource.RLIM_INFINITY else [])])


def _limits(proc: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """The bytes of memory that each control group of this process allows, its own and those around it."""
    try:
        groups = [line.split(":", 2)[1:] for line in proc.read_text().splitlines()]
    except OSError:  # not Linux
        return []
    found: list[int] = []
    for controllers, path in groups:
        if controllers == "":
            root, name = mounted, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = mounted / "memory", "memory.limit_in_bytes"
        else:
            continue
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            if not folder.is_relative_to(root):
                break
            try:
                said = (folder / name).read_text().strip()
            except OSError:  # a container sees its own group as the outermost one
                continue
            found += [int(said)] if said.isdigit() else []
    return found


def spare_memory() -> int:
    """Bytes that a process may fill with what it could do without: a quarter of its memory, half of what is free."""
    quarter = memory(torch.device("cpu")) // 4
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return quarter
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return min([quarter, *(one // 2 for one in free)])


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


@cache
def has_numba() -> bool:
    """Whether the library of the kernels compiled for the processor is installed and goes with this numpy."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


@cache
def has_triton() -> bool:
    """Whether the library of the kernels compiled for the accelerator is installed."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def compiler(**options: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """numba's decorator with these options. What it compiles is kept on disk, beside the program or where numba keeps a
    user's; where it may write to neither, or finds no room there, each process compiles for itself (`share`).

    LLVM halves the vectors on Intel's processors, whose older ones lowered their clock for whole ones. They are whole
    for all that numba compiles in this process, unless it has compiled something before or NUMBA_CPU_FEATURES is set.
    """
    from numba import njit
    from numba.core import codegen, config

    settings = vars(config)  # numba fills it from the environment
    if settings["CPU_FEATURES"] is None and platform.machine().lower() in ("x86_64", "amd64"):
        settings["CPU_FEATURES"] = f"{codegen.get_host_cpu_features()},-prefer-256-bit"

    def compiled(function: Callable[..., None]) -> Callable[..., None]:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError as reason:
            if "cannot cache" not in str(reason):
                raise
        return njit(**options)(function)

    return compiled


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads of our own: numba's can abort the process where two of its callers meet."""
    return ThreadPoolExecutor(threads, thread_name_prefix="kernel")


_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_forked = False  # whether this process began as another's copy, which has none of its threads


@cache
def _team() -> Callable[..., None] | None:
    """GNU OpenMP's call of a function by each of a team of threads, (function, its argument, threads, flags), in the
    library that torch has loaded; LLVM's and Intel's have it too. None: there is none, or it would wait for threads
    that stayed behind in a parent.
    """
    call = None if _forked or platform.system() != "Linux" else getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    if call is not None:
        call.argtypes, call.restype = [_WORK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return call


def _after_fork() -> None:
    global _forked
    _forked = True
    _pool.cache_clear()
    _team.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _call(kernel: Callable[..., None], *given: Any) -> None:
    try:
        kernel(*given)
    except OSError:  # compiled, and no room on the disk to keep it: the next call finds it ready
        kernel(*given)


def share(kernel: Callable[..., None], arrays: Sequence[np.ndarray], *rest: Any, apart: bool = False) -> None:
    """A compiled kernel on equal parts of the arrays' first axis, one a thread; no result may depend on the parts.

    The threads are those of torch's own operators where they can be had: after one of these they still wait awake for
    the next, and other threads would have to wait for a core. `apart`: of a pool, for work beside threads that decode.
    """
    threads = max(1, min(torch.get_num_threads(), len(arrays[0])))
    parts = [(part, Future[None]()) for part in zip(*(np.array_split(array, threads) for array in arrays), strict=True)]
    coming, team = iter(parts), None if apart or threads == 1 else _team()
    ended: list[int] = []

    def work(_: int | None = None) -> None:
        for part, done in coming:
            try:
                done.set_result(_call(kernel, *part, *rest))
            except BaseException as reason:
                done.set_exception(reason)
        ended.append(threading.get_ident())

    if team is not None:
        # of all of torch's threads: those that a smaller team does without would end, and be started again
        team(_WORK(work), None, torch.get_num_threads(), 0)
        if threading.get_ident() not in ended:  # a signal's exception, which ctypes does not pass on
            raise KeyboardInterrupt
    else:
        others = [_pool(threads).submit(work) for _ in parts[1:]]
        work()
        wait(others)
    for _, done in parts:
        done.result(timeout=0)


M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # glibc's <malloc.h>


def keep_memory() -> None:
    """Lets the C library keep what is freed, for the whole process: no number changes, only time.

    It gives large pieces back to the system at once, and each page of the next one is zeroed again at its first use.
    All threads share one heap: with several of them, the new threads of each validation would fall to one and another,
    and each would grow in turn to what a thread needs. Only glibc has the switches.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if platform.libc_ver()[0] == "glibc" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_ARENA_MAX, 1)
