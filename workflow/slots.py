"""A share of the machine for each job: its own processor cores, and its own GPU where there are GPUs.

Several jobs of one driver, or of several, share a machine. A slot is a file lock: the kernel gives it back when its
process ends, however it ends. Under a cluster's scheduler, which has shared out the machine already, nothing is done.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
import time
from pathlib import Path

FOLDER = Path(os.environ.get("KDLIB_SLOTS") or Path(tempfile.gettempdir()) / f"kdlib-slots-{os.getuid()}")


def take(kind: str, count: int, *, wait: bool = True):
    """`(number, lock)` of a free one of `count` slots; keep the lock open as long as the slot is used.

    Without a free one: waits, or returns None.
    """
    FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        for number in range(count):
            lock = open(FOLDER / f"{kind}-{number}", "w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return number, lock
            except BlockingIOError:
                lock.close()
        if not wait:
            return None
        time.sleep(0.5)


def gpus() -> list[str]:
    """The GPUs of this machine that may be used: those in CUDA_VISIBLE_DEVICES, or all that the driver lists."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(k) for k, _ in enumerate(listed.stdout.splitlines())] if listed.returncode == 0 else []


def scheduled() -> bool:
    """Whether a cluster's scheduler started this process."""
    return any(name in os.environ for name in ("SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST"))


def settle(jobs: int = 1, *, need_gpu: bool = False) -> list:
    """Give this process, and what it starts, its share of the machine; `jobs` run at a time. Returns the locks to keep.

    Cores are divided among the jobs. With `need_gpu` and GPUs here, it waits for one that no other job has.
    """
    locks = []
    if scheduled():
        return locks
    if need_gpu and (devices := gpus()):
        number, lock = take("gpu", len(devices))
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[number]
        locks.append(lock)
    if jobs > 1 and hasattr(os, "sched_setaffinity"):  # Linux; elsewhere the system shares them out
        cores = sorted(os.sched_getaffinity(0))
        slot = take(f"cores-{jobs}", jobs, wait=False)
        if slot is not None and len(cores) >= jobs:
            os.sched_setaffinity(0, cores[slot[0] :: jobs])
            locks.append(slot[1])
    return locks
