"""The campaign: its plan, one GPU for each job, killed and taken up again; on a cluster: `tests/cluster`."""

import json
import os
import re
import select
import subprocess
import sys
import time
from argparse import Namespace

import nbformat
import pytest
import yaml
from campaign import RECIPE
from flax import serialization

from kdlib.data import sources
from kdlib.tools.files import read_in_parts, read_rows
from kdlib.tools.provenance import ROOT, require_device
from workflow import fetch, plan, reproduce, slots, tables


def test_plan_of_every_scale():
    for scale in ("quick", "slice", "standard", "core", "full"):
        nodes = plan.nodes(scale)
        keys = [(node.kind, node.key) for node in nodes]
        assert len(set(keys)) == len(keys) and all(need in keys for node in nodes for need in node.needs)
    quick = plan.nodes("quick")
    assert [sum(node.kind == kind for node in quick) for kind in plan.NOTEBOOKS] == [3, 6, 6]
    assert all(len(node.trainings) == 9 for node in quick if node.kind == "student")
    core = {node.key: node for node in plan.nodes("core")}
    stopped = core["X2.cifar10-jpeg.resnet-20.lenet-5.1"]
    assert len(stopped.trainings) == 1 + 2 + len(stopped.parameters["stops"]) and stopped.experiment == "X2"
    assert core["rates.cifar10-jpeg.resnet-8.lenet-5-0.05.1000"].parameters["recipe"]["learning_rate"] == 0.05
    teachers = [json.dumps(node.parameters, sort_keys=True) for node in plan.nodes("core") if node.kind == "teacher"]
    assert len(set(teachers)) == len(teachers)  # of several experiments: one job
    assert ("teacher", "X2.cifar10-jpeg.resnet-20.0") in core["X1.cifar10-jpeg.resnet-20.lenet-5x8.0"].needs
    assert {node.parameters["engine"] for node in plan.nodes("core")} == {"torch"}
    assert {node.parameters["engine"] for node in plan.nodes("core", on_gpu=True)} == {"jax"}
    assert plan.nodes("standard", {"cifar10": "/there"})[0].parameters["task"]["data"] == "/there"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda scale: scale["campaign"].update(stagez=3), "'stagez' was unexpected"),
        (lambda scale: scale["campaign"].pop("ridge"), "'ridge' is a required property"),
        (lambda scale: scale["campaign"].update(stages="three"), "campaign.stages: 'three' is not of type 'integer'"),
        (
            lambda scale: scale["campaign"]["tasks"]["fashion-mnist"].update(noise=2),
            "campaign.tasks.fashion-mnist.noise: 2",
        ),
        (lambda scale: scale["campaign"].update(methods=["ofline"]), "campaign.methods.0: 'ofline' is not one of"),
        (
            lambda scale: scale["campaign"].update(experiments={"X1": {"stages": 0}}),
            "X1.stages: 0 is less than the minimum",
        ),
        (lambda scale: scale["campaign"].update(experiments={"X1": 3}), "experiments.X1: 3 is not of type 'object'"),
        (lambda scale: scale.update(transfer_rsk={"seed": 1}), "'transfer_rsk' is not one of"),
        (lambda scale: scale.update(transfer_risk=3), "transfer_risk: 3 is not of type 'object'"),
    ],
)
def test_a_wrong_scale_is_refused(tmp_path, monkeypatch, change, message):
    content = yaml.safe_load((plan.SCALES / "quick.yaml").read_text())
    change(content)
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr(plan, "SCALES", tmp_path)
    plan.read.cache_clear()
    with pytest.raises(SystemExit, match=re.escape(message)):
        plan.nodes("wrong")
    with pytest.raises(SystemExit, match="no scale 'enormous': choose from wrong"):
        plan.nodes("enormous")
    plan.read.cache_clear()


def test_the_estimate_counts_trainings_and_kernels(capsys, monkeypatch):
    """Of quick: a teacher of 12 epochs of 2,000 images for each of three seeds; 2 x 2 students and a baseline, each at
    four checkpoints."""
    monkeypatch.setattr(reproduce, "training_operations", lambda *_: 1e9)
    reproduce.estimate(Namespace(scale="quick"))
    lines = capsys.readouterr().out.splitlines()
    assert any(re.match(r"  convolutional +fashion-mnist +0\.1 million images", line) for line in lines), lines
    assert any("60 kernels of 128 images, all outputs: 1,280 x 1,280" in line for line in lines), lines
    reproduce.estimate(Namespace(scale="core"))  # whose experiments share their teachers
    shared = next(line for line in capsys.readouterr().out.splitlines() if "resnet-20" in line)
    assert "8.2 million images" in shared  # 15 epochs for three seeds, 30 for one; six students of 3, fifteen of 6


def test_progress_counts_each_training_once(tmp_path, monkeypatch):
    """Students of X2 at its rate are not X5's, nor those of T = 4; and no node counts another's."""
    nodes = [node for node in plan.nodes("core") if node.experiment in ("X2", "X2-hot") and node.kind == "student"]
    given = nodes[0].parameters
    row = {
        **reproduce._columns(nodes[0]), "images_per_second": 100.0, "seconds": 36.0, "device": "cpu",
        "code": reproduce.code_hash(plan.COMPUTED_BY["student"]),
    }  # fmt: skip
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    said = lambda: reproduce.progress("core", nodes, 2).split(",")[0]
    total, one = sum(len(node.trainings) for node in nodes), len(nodes[0].trainings)
    for found, count in (
        ([dict(row) for _ in range(4)], 4),
        ([dict(row) for _ in range(200)], one),
        ([{**row, "learning_rate": 0.7 * given["recipe"]["learning_rate"]} for _ in range(9)], 0),
        ([{**row, "train_examples": 10_000} for _ in range(9)], 0),
    ):
        monkeypatch.setattr(reproduce, "finished_runs", lambda _, found=found: found)
        assert said() == f"trainings {count} of {total}"


@pytest.mark.slow
def test_one_experiment_of_several():
    options = Namespace(scale="core", only=["X2"], tables_only=False)
    asked = reproduce.targets(options)
    assert all(path.startswith("_build/core/campaign/") and path.endswith(".csv") for path in asked)
    assert {path.split("/")[-1].split(".")[0] for path in asked} == {"X2", "X2-hot", "X2-noisy", "X2-noisy-hot"}
    options.only = ["X2-noisy"]
    assert {path.split("/")[-1].split(".")[0] for path in reproduce.targets(options)} == {"X2-noisy"}
    options.only = ["X99"]
    with pytest.raises(SystemExit, match="has the experiments rates"):
        reproduce.targets(options)


def test_operations_are_counted():
    """Of a perceptron 12 -> 64 -> 64 -> 10: six times its multiplications, within a factor of 1.5."""
    products = 2 * 2 * 3 * 64 + 64 * 64 + 64 * 10
    assert 1 < reproduce.training_operations("perceptron", 2) / (6 * products) < 1.5


def test_the_images_of_a_scale_are_fetched_or_named(monkeypatch, capsys):
    fetch.fetch("quick", {})
    assert "fashion-mnist" in capsys.readouterr().out
    with pytest.raises(SystemExit, match='cifar10-jpeg: say where it is, DATA="cifar10-jpeg=/path"'):
        fetch.fetch("core", {})
    fetch.fetch("core", {"cifar10-jpeg": "/there"})
    monkeypatch.setattr(sources, "locate", lambda _: (_ for _ in ()).throw(sources.DataUnavailableError("no network")))
    with pytest.raises(SystemExit, match="cifar100: no network\nfashion-mnist: no network"):
        fetch.fetch("full", {})


def test_a_job_for_a_gpu_does_not_run_without_one(monkeypatch):
    monkeypatch.setenv("KDLIB_DEVICE", "gpu")
    with pytest.raises(RuntimeError, match="JAX computes on cpu"):
        require_device()
    monkeypatch.setenv("KDLIB_DEVICE", "cpu")
    require_device()


def test_tables_name_the_experiment_of_each_row(tmp_path):
    for name, text in (("a", "x,y\n1,2\n"), ("b", "x\n3\n")):
        (tmp_path / f"{name}.csv").write_text(text)
    tables.gather(tmp_path / "all.csv", [("X1", tmp_path / "a.csv"), ("", tmp_path / "b.csv")])
    assert read_rows(tmp_path / "all.csv") == [
        {"experiment": "X1", "x": "1", "y": "2"},
        {"experiment": "", "x": "3", "y": ""},
    ]


def test_where_the_data_are(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    (tmp_path / "c a;b.tar").write_text("x")
    places = plan.save_places("standard", [f"cifar10={tmp_path / 'c a;b.tar'}"])
    assert plan.saved_places("standard")[0] == places == {"cifar10": str(tmp_path / "c a;b.tar")}
    before = plan.saved_places("standard")[1]
    os.utime(tmp_path / "c a;b.tar", (1, 1))
    plan.save_places("standard", [f"cifar10={tmp_path / 'c a;b.tar'}"])
    assert plan.saved_places("standard")[1] != before  # changed data are a change
    assert plan.save_places("standard", []) == places  # kept until it is said anew
    assert plan.save_places("standard", ["cifar10="]) == {} == plan.saved_places("standard")[0]
    for wrong, message in (
        ("cifar=/x", "one of cifar10"),
        ("cifar10", "NAME=PATH"),
        ("cifar10=/no/such", "nothing at"),
    ):
        with pytest.raises(SystemExit, match=message):
            plan.save_places("standard", [wrong])


def test_the_pages_show_the_first_of_the_quick_runs():
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

    def printed(program, **more):
        return subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env={**environment, **more}, capture_output=True, text=True
        ).stdout.strip()

    assert [printed(chosen, CUDA_VISIBLE_DEVICES=names) for names in ("1,0", "GPU-b", "")] == [
        "['GPU-b', 'GPU-a']",
        "['GPU-b']",
        "[]",
    ]
    scheduled = "from workflow import slots; print(slots.settle(None, need_gpu=True))"
    assert printed(scheduled) == "[]"  # a scheduler shares out its machines itself


def test_jobs_may_share_a_gpu(tmp_path, monkeypatch):
    """Two on each of two GPUs: four jobs have a place, the first two a GPU each; Snakemake is told of four."""
    monkeypatch.setattr(slots, "gpus", lambda: ["GPU-a", "GPU-b"])
    monkeypatch.setattr(slots, "FOLDER", tmp_path)
    monkeypatch.setenv("KDLIB_SHARE", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that it is put back
    found, locks = [], []
    for _ in range(4):
        locks += slots.settle(1, need_gpu=True)
        found.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert found == ["GPU-a", "GPU-b", "GPU-a", "GPU-b"] and len(locks) == 4
    options = Namespace(
        scale="quick", lock="cuda", retries=0, profile=None, jobs=4, share=2, dry_run=False, only=[], tables_only=False
    )
    words = reproduce.words(options)
    assert words[words.index("--resources") + 1] == "gpu=4" and reproduce.at_a_time(options) == 4
    options.lock = "requirements.lock"  # an environment without CUDA has no use for them
    assert "--resources" not in reproduce.words(options) and reproduce.at_a_time(options) == 4
    monkeypatch.undo()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: X (UUID: GPU-a)'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    for visible, devices in (("0", ["GPU-a"]), ("-1", []), ("0,-1", ["GPU-a"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert slots.gpus() == devices


# --- a campaign of its own ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_and_taken_up_again(make_place, wait_for, kill_all):
    place = make_place(teachers={"perceptron": {**RECIPE, "epochs": 400}})
    assert place.due() == 3
    driver = place.reproduce()
    wait_for(lambda: list(place.runs.glob("teacher-*/state.msgpack")), "the teacher's first state")
    kill_all(driver)
    (teacher,) = (path.parent for path in place.runs.glob("teacher-*/.lock"))
    first = min((teacher / "checkpoints").glob("*.msgpack"), key=lambda path: path.stat().st_mtime)
    written = first.stat().st_mtime
    assert (teacher / "state.msgpack").exists() and not (teacher / "run.json").exists()
    assert not list(place.campaign.rglob("*.csv"))
    output = place.finish()
    rows, along = place.tables()
    assert [row["method"] for row in rows] == ["baseline", "baseline", "offline", "online"] and len(along) == 10 * 8, (
        output
    )  # two kernels, four targets
    assert first.stat().st_mtime == written, "the first checkpoint must not be trained again"
    assert "trainings 4 of 4, kernels 1 of 1" in output
    assert all(row["seconds"] and row["device"] and row["kdlib"] and row["data_sha256"] for row in rows)


@pytest.mark.slow
def test_it_ends_in_time_and_goes_on(make_place):
    """Half a minute is enough for a start and not for the end: exit status 0, nothing failed, a state kept. Again: it
    goes on from there."""
    place = make_place(teachers={"perceptron": {**RECIPE, "epochs": 20_000}})
    steps = []
    for _ in range(2):
        began = time.monotonic()
        output = place.finish("--minutes", "0.5")
        assert "minutes are over" in output and not list(place.campaign.rglob("*.failed.ipynb"))
        assert time.monotonic() - began < 120
        (state,) = place.runs.glob("teacher-*/state.msgpack")
        assert not (state.parent / "run.json").exists()
        steps.append(int(serialization.msgpack_restore(read_in_parts(state))["step"]))
    assert steps[1] > steps[0] > 0


@pytest.mark.slow
def test_only_what_is_new_runs(make_place):
    place = make_place()
    place.finish()
    assert place.due() == 0
    place.write(seeds=[0, 1])
    assert place.due() == 3  # the new seed's teacher, student, kernels
    place.write(temperatures=[1.0, 2.0])
    assert place.due() == 2  # the student's notebook and its kernels; its old trainings are read
    place.write()
    place.edit("kdlib/training/loop.py", '"""', '"""In other words: ')
    place.append("kdlib/ledger/checks.py", "ADDED = 1\n")  # no training runs through it
    assert place.due() == 0
    place.append("kdlib/training/loop.py", "ADDED = 1\n")
    assert place.due() == 3


@pytest.mark.slow
def test_a_failed_job_names_its_notebook_and_the_others_go_on(make_place):
    hopeless = {"epochs": 1, "batch_size": 32, "learning_rate": 1e12}
    place = make_place(teachers={"perceptron": RECIPE, "lenet-5": hopeless})
    output = place.finish(status=1)
    assert "not finite" in output and "teacher/tiny.lenet-5.0.failed.ipynb" in output
    assert "its log: tiny.lenet-5.0.log" in output
    assert not (place.campaign / "student/tiny.lenet-5.perceptron.0.csv").exists()
    assert (place.campaign / "student/tiny.perceptron.perceptron.0.csv").exists()


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
    environment = {{name: os.environ[name] for name in ("PATH", "HOME")}}
    environment |= {{entry["name"]: entry["value"] for entry in container["env"]}}
    command = 'trap "" HUP; "$@"; echo $? > ' + str(place / (name + ".rc"))
    subprocess.Popen(["sh", "-c", command, "sh", *container["command"]], cwd=container["workingDir"], env=environment,
                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
elif sys.argv[1] == "get":
    rc = place / (sys.argv[3] + ".rc")
    code = rc.read_text().strip() if rc.exists() else ""
    print(json.dumps({{"status": {{"succeeded": 1}} if code == "0" else {{"failed": 1}} if code else {{}}}}))
"""


@pytest.mark.slow
def test_on_kubernetes_as_far_as_it_can_be_seen_here(make_place, tmp_path):
    """Everything but Kubernetes: Snakemake's scripts become Jobs, which a stand-in for kubectl runs as processes."""
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    (jobs / "kubectl").write_text(KUBECTL.format(python=sys.executable, place=str(jobs)))
    (jobs / "kubectl").chmod(0o755)
    place = make_place()
    place.environment["PATH"] = f"{jobs}:{os.environ['PATH']}"
    place.environment |= {"KDLIB_IMAGE": "registry.example/kdlib:1", "KDLIB_CLAIM": "kdlib"}
    place.finish("--profile", "workflow/profiles/kubernetes")
    made = [json.loads(path.read_text()) for path in jobs.glob("*.json")]
    assert len(made) == 3 and len(place.tables()[0]) == 4
    container = made[0]["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert container["image"] == "registry.example/kdlib:1"
    assert container["volumeMounts"] == [{"name": "kdlib", "mountPath": str(place.folder)}]
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", job["metadata"]["name"]) for job in made)


def test_kubernetes_files():
    """The driver's manifest can be read; a job without its image and volume is refused."""
    assert len(list(yaml.safe_load_all((ROOT / "workflow/profiles/kubernetes/driver.yaml").read_text()))) == 5
    environment = {name: value for name, value in os.environ.items() if name != "KDLIB_CLAIM"}
    command = [sys.executable, "workflow/profiles/kubernetes/jobs.py", "submit", "x"]
    refused = subprocess.run(command, cwd=ROOT, env={**environment, "KDLIB_IMAGE": "x"}, capture_output=True, text=True)
    assert refused.returncode and "set KDLIB_CLAIM" in refused.stderr
