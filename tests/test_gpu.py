"""`make gpu`: its order, its minutes, what it looks for first."""

import subprocess
from argparse import Namespace

import pytest

from workflow import gpu, plan

OPTIONS = {"scale": "core", "minutes": 20.0, "share": 1, "data": [], "lock": "requirements/requirements-cuda.lock"}


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """What was started, in order, as `(words, environment, seconds)`; `calls.takes` are the seconds of each."""

    class Calls(list):
        takes, fails = {}, ()

    found, clock = Calls(), [0.0]

    def start(command, *, timeout, env, **_):
        words = command[1:]
        found.append((words, env, timeout))
        name = words[1] if words[0] in ("-m", "-c") else words[0]
        takes = found.takes.get(name, 60.0)
        if timeout is not None and takes > timeout:
            clock[0] += timeout
            raise subprocess.TimeoutExpired(command, timeout)
        clock[0] += takes
        return subprocess.CompletedProcess(command, name in found.fails)

    monkeypatch.setattr(plan, "ROOT", tmp_path)
    monkeypatch.setattr(gpu.subprocess, "run", start)
    monkeypatch.setattr(gpu.time, "time", lambda: clock[0])
    (tmp_path / "images").mkdir()
    plan.save_places("core", [f"cifar10-jpeg={tmp_path / 'images'}"])
    return found


def test_the_order_in_which_a_gpu_is_used(calls):
    assert gpu.run(Namespace(**OPTIONS)) == 0
    words = [" ".join(words) for words, *_ in calls]
    assert "require_device()" in words[0] and words[1] == "benchmarks/device.py"
    assert words[2].startswith("benchmarks/ntk.py") and words[3].startswith("-m workflow.reproduce --scale core")
    assert len(words) == 4 and all(environment["KDLIB_DEVICE"] == "gpu" for _, environment, _ in calls)
    assert "--minutes 17 " in words[3] + " "  # of twenty, three were used: one deadline for all


def test_benchmarks_end_in_time_and_the_campaign_gets_what_is_left(calls, capsys):
    calls.takes = {"benchmarks/ntk.py": 1e6}
    assert gpu.run(Namespace(**OPTIONS)) == 0
    assert [seconds for *_, seconds in calls] == [1200, 1140, 1080] and "minutes are over" in capsys.readouterr().out


def test_what_is_missing_is_said_before_anything_runs(calls):
    calls.fails = (gpu.CHECK[1],)  # no GPU
    assert gpu.run(Namespace(**OPTIONS)) == 1 and len(calls) == 1
    plan.save_places("core", ["cifar10-jpeg="])
    with pytest.raises(SystemExit, match="say where it is"):
        gpu.run(Namespace(**OPTIONS))
    assert len(calls) == 1


def test_a_benchmark_that_fails_does_not_keep_the_campaign(calls):
    calls.fails = ("benchmarks/device.py",)
    assert gpu.run(Namespace(**OPTIONS)) == 1 and len(calls) == 4
