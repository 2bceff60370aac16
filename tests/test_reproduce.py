"""The batch: its plan, one GPU for each job, killed and taken up again, on this machine and on a one-node Slurm."""

import csv
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from kdlib.provenance import ROOT
from workflow import plan

TINY = {
    "seeds": [0], "stages": 4, "points": 12, "ridge": 0.001, "methods": ["baseline", "offline", "online"],
    "along": ["offline", "online"], "temperatures": [1.0], "soft_ratios": [1.0], "temperature_scaling": "squared",
    "tasks": {"tiny": {"data": "fashion-mnist", "train_examples": 512, "validation_examples": 50, "test_examples": 50, "noise": 0.0}},
    "teachers": {"perceptron": {"epochs": 400, "batch_size": 32}},
    "students": {"perceptron": {"epochs": 2, "batch_size": 32}},
}  # fmt: skip


def test_plan_of_every_scale():
    for scale in ("quick", "slice", "standard", "full"):
        nodes = plan.nodes(scale)
        keys = [(node.kind, node.key) for node in nodes]
        assert len(set(keys)) == len(keys) and all(need in keys for node in nodes for need in node.needs)
    quick = plan.nodes("quick")
    assert [sum(node.kind == kind for node in quick) for kind in plan.NOTEBOOKS] == [3, 6, 6]
    assert all(len(node.trainings) == 9 for node in quick if node.kind == "student")
    assert plan.nodes("standard", {"cifar10": "/there"})[0].parameters["task"]["data"] == "/there"
    with pytest.raises(SystemExit, match="no scale"):
        plan.nodes("enormous")


def test_where_the_data_are(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    (tmp_path / "c a;b.tar").write_text("x")
    places = plan.save_places("standard", [f"cifar10={tmp_path / 'c a;b.tar'}"])
    assert plan.saved_places("standard")[0] == places == {"cifar10": str(tmp_path / "c a;b.tar")}
    before = plan.saved_places("standard")[1]
    os.utime(tmp_path / "c a;b.tar", (1, 1))
    plan.save_places("standard", [f"cifar10={tmp_path / 'c a;b.tar'}"])
    assert plan.saved_places("standard")[1] != before  # changed data are a change
    for wrong, message in (
        ("cifar=/x", "one of cifar10"),
        ("cifar10", "NAME=PATH"),
        ("cifar10=/no/such", "nothing at"),
    ):
        with pytest.raises(SystemExit, match=message):
            plan.save_places("standard", [wrong])


def test_the_pages_show_the_first_of_the_quick_runs():
    import nbformat

    for kind, notebook in plan.NOTEBOOKS.items():
        source = nbformat.read(ROOT / "book" / f"{notebook}.ipynb", 4).cells[1].source
        defaults = {}
        exec(source, defaults)
        node = next(node for node in plan.nodes("quick") if node.kind == kind)
        assert {name: defaults[name] for name in node.parameters} == node.parameters


def test_no_two_jobs_share_a_gpu(tmp_path):
    listed = ("GPU 0: X (UUID: GPU-a)", "  MIG 1g Device 0: (UUID: MIG-c)", "GPU 1: X (UUID: GPU-b)")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in listed))
    (tmp_path / "nvidia-smi").chmod(0o755)
    code = (
        "import os, sys, time; from workflow import slots; locks = slots.settle(1, need_gpu=True);"
        "print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); sys.stdin.readline()"
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "KDLIB_SLOTS": str(tmp_path / "slots")}
    environment.pop("CUDA_VISIBLE_DEVICES", None)

    def start():
        return subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True, cwd=ROOT, env=environment)

    first, second = start(), start()
    assert {first.stdout.readline().strip(), second.stdout.readline().strip()} == {"GPU-a", "GPU-b"}
    third = start()
    assert not select.select([third.stdout], [], [], 2)[0], "a third job must wait"
    first.kill()  # however it ends, its GPU is free
    assert third.stdout.readline().strip() in ("GPU-a", "GPU-b")
    for process in (second, third):
        process.kill()
    chosen = "from workflow import slots; print(slots.gpus())"  # an index and a name of one device are one slot
    named = [
        subprocess.run(
            [sys.executable, "-c", chosen],
            cwd=ROOT,
            env={**environment, "CUDA_VISIBLE_DEVICES": v},
            capture_output=True,
            text=True,
        ).stdout.strip()
        for v in ("1,0", "GPU-b", "")
    ]
    assert named == ["['GPU-b', 'GPU-a']", "['GPU-b']", "[]"]
    scheduled = subprocess.run(
        [sys.executable, "-c", "from workflow import slots; print(slots.settle(None, need_gpu=True))"], cwd=ROOT,
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert scheduled.stdout.strip() == "[]"  # a scheduler shares out its machines itself


# --- a batch of its own ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A copy of the repository with a tiny scale."""
    folder = tmp_path_factory.mktemp("batch")
    for name in ("kdlib", "workflow", "book", "data", "requirements"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, folder)
    write(folder, TINY)
    return folder


def write(place, batch):
    (place / "workflow" / "scales" / "tiny.yaml").write_text(yaml.safe_dump({"batch": batch}))


def reproduce(place, *words):
    environment = {**os.environ, "PYTHONPATH": str(place), "KDLIB_SLOTS": str(place / "slots")}
    environment.pop("KDLIB_RECORDS", None)
    command = [sys.executable, "-m", "workflow.reproduce", "--scale", "tiny", "--tables-only", *words]
    return subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )  # fmt: skip


def jobs(place, *words):
    """How many notebooks would run."""
    output = reproduce(place, "--dry-run", *words).communicate(timeout=120)[0]
    found = re.search(r"^node\s+(\d+)", output, re.M)
    assert found or "Nothing to be done" in output, output
    return int(found.group(1)) if found else 0


def wait_for(condition, what, seconds=180):
    for _ in range(seconds * 10):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail(f"waited for {what}")


def tables(place):
    return [
        list(csv.DictReader((place / f"_build/tiny/records/{name}.csv").open())) for name in ("11_runs", "11_along")
    ]


def test_killed_and_taken_up_again(place):
    runs = place / "_build" / "tiny" / "runs"
    assert jobs(place) == 3
    driver = reproduce(place)
    wait_for(lambda: list(runs.glob("teacher-*/state.msgpack")), "the teacher's first state")
    os.killpg(driver.pid, signal.SIGKILL)  # the driver, the notebook's runner and, below, its kernel
    subprocess.run(["pkill", "-9", "-f", str(place)])
    driver.wait()
    (teacher,) = runs.glob("teacher-*")
    first = min((teacher / "checkpoints").glob("*.msgpack"), key=lambda path: path.stat().st_mtime)
    written = first.stat().st_mtime
    assert (teacher / "state.msgpack").exists() and not (teacher / "run.json").exists()
    assert not list((place / "_build/tiny/batch").rglob("*.csv"))
    output = reproduce(place).communicate(timeout=400)[0]
    rows, along = tables(place)
    assert [row["method"] for row in rows] == ["baseline", "baseline", "offline", "online"] and len(along) == 10, output
    assert first.stat().st_mtime == written, "the first checkpoint must not be trained again"
    assert "trainings 4 of 4, kernels 1 of 1" in output
    assert all(row["seconds"] and row["device"] and row["kdlib"] and row["data_sha256"] for row in rows)


def test_only_what_is_new_runs(place):
    assert jobs(place) == 0
    write(place, {**TINY, "seeds": [0, 1]})
    assert jobs(place) == 3  # the new seed's teacher, student, kernels
    write(place, {**TINY, "temperatures": [1.0, 2.0]})
    assert jobs(place) == 2  # the student's notebook and its kernels; its old trainings are read
    write(place, TINY)
    code = place / "kdlib" / "distill.py"
    text = code.read_text()
    code.write_text(text + "# changed\n")
    assert jobs(place) == 3
    code.write_text(text)
    other = place / "kdlib" / "ledger.py"
    other.write_text(other.read_text() + "# changed\n")
    assert jobs(place) == 0  # no training runs through it


def test_a_failed_job_names_its_notebook_and_the_others_go_on(place):
    broken = {
        **TINY,
        "seeds": [0, 5],
        "teachers": {"perceptron": {**TINY["teachers"]["perceptron"], "learning_rate": 1e12}},
    }
    write(
        place,
        {
            **broken,
            "teachers": {**TINY["teachers"], **{"lenet-5": {"epochs": 1, "batch_size": 32, "learning_rate": 1e12}}},
            "seeds": [0],
        },
    )
    driver = reproduce(place)
    output = driver.communicate(timeout=400)[0]
    assert driver.returncode != 0
    assert (
        "not finite" in output
        and "teacher/tiny.lenet-5.0.failed.ipynb" in output
        and "its log: tiny.lenet-5.0.log" in output
    )
    assert not (place / "_build/tiny/batch/student/tiny.lenet-5.perceptron.0.csv").exists()
    assert (place / "_build/tiny/batch/student/tiny.perceptron.perceptron.0.csv").exists()
    write(place, TINY)


# --- clusters ----------------------------------------------------------------------------------------------------

CONF = """ClusterName=test
SlurmctldHost={host}
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobRequeue=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/d.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/d.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(tmp_path):
    """A one-node Slurm of this machine's, from Debian's packages; its configuration is removed afterwards."""
    conf = "/etc/slurm/slurm.conf"
    if os.getuid() or not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch"))) or os.path.exists(conf):
        pytest.skip("needs root, Debian's slurm-wlm and munge, and no Slurm that is configured already")
    host = os.uname().nodename.split(".")[0]
    for name in ("state", "spool"):
        (tmp_path / name).mkdir()
    os.makedirs("/run/munge", exist_ok=True)
    subprocess.run(
        ["chown", "-R", "munge:munge", "/run/munge", "/etc/munge", "/var/lib/munge", "/var/log/munge"], check=True
    )
    munge = subprocess.Popen(["runuser", "-u", "munge", "--", "munged", "--foreground"], stderr=subprocess.DEVNULL)
    with open(conf, "w") as handle:
        handle.write(CONF.format(host=host, folder=tmp_path, cores=os.cpu_count()))
    with open("/etc/hosts") as handle:
        hosts = handle.read()
    if not re.search(rf"\b{re.escape(host)}\b", hosts):
        with open("/etc/hosts", "a") as handle:
            handle.write(f"127.0.0.1 {host}\n")
    time.sleep(1)
    daemons = [subprocess.Popen([name, "-D"], stderr=subprocess.DEVNULL) for name in ("slurmctld", "slurmd")]
    try:
        wait_for(
            lambda: "idle" in subprocess.run(["sinfo", "-h"], capture_output=True, text=True).stdout, "an idle node", 60
        )
        yield
    finally:
        for process in (*daemons, munge):
            process.kill()
        subprocess.run(["pkill", "-9", "munged"])
        os.remove(conf)
        with open("/etc/hosts", "w") as handle:
            handle.write(hosts)


def test_on_slurm_with_a_job_killed(place, slurm, tmp_path):
    """The profile of the repository, but for the GPUs and the size of the node."""
    profile = yaml.safe_load((ROOT / "workflow/profiles/slurm/config.yaml").read_text())
    profile |= {
        "default-resources": ["runtime=30", "mem_mb=1500", "cpus_per_task=1"],
        "set-resources": ["node:gpu=0"],
        "latency-wait": 5,
    }
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "config.yaml").write_text(yaml.safe_dump(profile))
    write(place, {**TINY, "seeds": [7]})
    runs = place / "_build" / "tiny" / "runs"
    driver = reproduce(place, "--profile", str(tmp_path / "profile"), "--retries", "2")
    wait_for(lambda: list(runs.glob("teacher-perceptron-7-*/state.msgpack")), "a state by a Slurm job", 240)
    queue = subprocess.run(["squeue", "-h", "-o", "%i %T"], capture_output=True, text=True).stdout.split()
    assert "RUNNING" in queue
    first = next(runs.glob("teacher-perceptron-7-*/checkpoints/*.msgpack"))
    written = first.stat().st_mtime
    subprocess.run(["scancel", "--full", "--signal=KILL", queue[0]], check=True)
    output = driver.communicate(timeout=540)[0]
    assert driver.returncode == 0, output[-3000:]
    rows, along = tables(place)
    assert len(rows) == 4 and {row["seed"] for row in rows} == {"7"} and first.stat().st_mtime == written
    write(place, TINY)


KUBECTL = """#!{python}
# A stand-in for kubectl: keeps manifests in a folder, runs a Job's command as a process, answers `get`.
import json, os, pathlib, subprocess, sys
place = pathlib.Path({place!r})
if sys.argv[1] == "create":
    job = json.load(sys.stdin)
    name, (container,) = job["metadata"]["name"], job["spec"]["template"]["spec"]["containers"]
    if (place / (name + ".json")).exists():
        sys.exit("AlreadyExists")
    (place / (name + ".json")).write_text(json.dumps(job))
    environment = {{name: os.environ[name] for name in ("PATH", "HOME")}} | {{entry["name"]: entry["value"] for entry in container["env"]}}
    command = 'trap "" HUP; "$@"; echo $? > ' + str(place / (name + ".rc"))
    subprocess.Popen(["sh", "-c", command, "sh", *container["command"]], cwd=container["workingDir"], env=environment,
                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
elif sys.argv[1] == "get":
    rc = place / (sys.argv[3] + ".rc")
    code = rc.read_text().strip() if rc.exists() else ""
    print(json.dumps({{"status": {{"succeeded": 1}} if code == "0" else {{"failed": 1}} if code else {{}}}}))
"""


def test_on_kubernetes_as_far_as_it_can_be_seen_here(place, tmp_path, monkeypatch):
    """Everything but Kubernetes: Snakemake's scripts become Jobs, which a stand-in for kubectl runs as processes."""
    (tmp_path / "kubectl").write_text(KUBECTL.format(python=sys.executable, place=str(tmp_path)))
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("KDLIB_IMAGE", "registry.example/kdlib:1")
    monkeypatch.setenv("KDLIB_CLAIM", "kdlib")
    write(place, {**TINY, "seeds": [8], "teachers": {"perceptron": {"epochs": 2, "batch_size": 32}}})
    driver = reproduce(place, "--profile", "workflow/profiles/kubernetes")
    output = driver.communicate(timeout=400)[0]
    assert driver.returncode == 0, output[-3000:]
    made = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert len(made) == 3 and len(tables(place)[0]) == 4
    container = made[0]["spec"]["template"]["spec"]["containers"][0]
    assert (
        container["resources"]["limits"] == {"nvidia.com/gpu": "1"} and container["image"] == "registry.example/kdlib:1"
    )
    assert container["volumeMounts"] == [{"name": "kdlib", "mountPath": str(place)}]
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", job["metadata"]["name"]) for job in made)
    assert len(list(yaml.safe_load_all((ROOT / "workflow/profiles/kubernetes/driver.yaml").read_text()))) == 5
    monkeypatch.delenv("KDLIB_CLAIM")
    refused = subprocess.run(
        [sys.executable, "workflow/profiles/kubernetes/jobs.py", "submit", "x"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert refused.returncode and "set KDLIB_CLAIM" in refused.stderr
    write(place, TINY)
