"""A share of the machine for each job: its own processor cores, and its own GPU where there are GPUs.

Several jobs of one driver, or of several, share a machine. A slot is a file lock: the kernel gives it back when its
process ends, however it ends. The driver says how many jobs there are (`$KDLIB_JOBS`), and how many may share a GPU
(`$KDLIB_SHARE`: small networks leave most of it idle); a cluster's jobs are not told.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

FOLDER = Path(os.environ.get("KDLIB_SLOTS") or Path(tempfile.gettempdir()) / f"kdlib-slots-{os.getuid()}")


def take(names: list[str], *, wait: bool = True):
    """`(number, lock)` of a free one of the slots with these names; keep the lock open as long as the slot is used.

    Without a free one: waits, or returns None.
    """
    FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        for number, name in enumerate(names):
            lock = open(FOLDER / name, "w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return number, lock
            except BlockingIOError:
                lock.close()
        if not wait:
            return None
        time.sleep(0.5)


def gpus() -> list[str]:
    """The GPUs of this machine that may be used, by their unique names: those of CUDA_VISIBLE_DEVICES, or all."""
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    here = re.findall(r"^GPU \d+:.*\(UUID: (\S+)\)", listed.stdout, re.M)  # parts of a divided GPU are indented
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        return here
    chosen = [name.strip() for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    if "-1" in chosen:  # for CUDA the end of the list
        chosen = chosen[: chosen.index("-1")]
    return [here[int(name)] if name.isdigit() and int(name) < len(here) else name for name in chosen]


def shared() -> int:
    """How many jobs may share a GPU."""
    return int(os.environ.get("KDLIB_SHARE") or 1)


def settle(jobs: int | None, *, need_gpu: bool = False) -> list:
    """Give this process, and what it starts, its share of the machine; `jobs` run at a time. Returns the locks to keep.

    Cores are divided among the jobs. With `need_gpu` and GPUs here, it waits for one that no other job has, or, where
    jobs share, for one with room; each GPU's first place is taken before any second. Nothing is done where `jobs` is
    None: a cluster's scheduler has shared out the machine.
    """
    locks = []
    if jobs is None:
        return locks
    if need_gpu and (devices := gpus()):
        names = [f"gpu-{name.replace('/', '-')}" for name in devices]
        places = [name + f"-{place}" * (place > 0) for place in range(shared()) for name in names]
        place, lock = take(places)
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[place % len(devices)]
        locks.append(lock)
    if jobs > 1 and hasattr(os, "sched_setaffinity"):  # Linux; elsewhere the system shares them out
        cores = sorted(os.sched_getaffinity(0))
        slot = take([f"cores-{number}-of-{jobs}" for number in range(jobs)], wait=False)
        if len(cores) >= jobs:
            # Beside another driver no slot is free: as many cores as ever, because numbers depend on their number.
            os.sched_setaffinity(0, cores[(slot[0] if slot else os.getpid() % jobs) :: jobs])
        locks += [slot[1]] if slot else []
    return locks
