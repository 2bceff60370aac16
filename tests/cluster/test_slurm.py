"""The campaign on a one-node Slurm of this machine's own, from Debian's packages; as root, with `make test-cluster`.

It starts daemons, and for a while it changes files under /etc and who owns munge's folders; all of that is put back.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from campaign import RECIPE

from kdlib.tools.provenance import ROOT

pytestmark = pytest.mark.cluster

CONF = Path("/etc/slurm/slurm.conf")
HOSTS = Path("/etc/hosts")
MUNGE = [Path(name) for name in ("/run/munge", "/etc/munge", "/var/lib/munge", "/var/log/munge")]
TEXT = """ClusterName=test
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
def owners():
    """Put back who owns munge's folders, and what is in them; remove a folder that was not there."""
    there = [path for folder in MUNGE if folder.exists() for path in (folder, *folder.rglob("*"))]
    before = {path: (path.stat().st_uid, path.stat().st_gid) for path in there}
    missing = [folder for folder in MUNGE if not folder.exists()]
    yield
    for path, (user, group) in before.items():
        if path.exists():
            os.chown(path, user, group)
    for folder in missing:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slurm(tmp_path, wait_for, kill_all):
    """Slurm, running; its configuration is removed afterwards."""
    needed = ("slurmctld", "slurmd", "munged", "sbatch", "runuser")
    if os.getuid() or not all(map(shutil.which, needed)) or CONF.exists():
        pytest.skip("needs root, Debian's slurm-wlm and munge, and no Slurm that is configured already")
    host = os.uname().nodename.split(".")[0]
    for name in ("state", "spool"):
        (tmp_path / name).mkdir()
    MUNGE[0].mkdir(exist_ok=True)
    hosts, daemons = HOSTS.read_text(), []
    try:
        subprocess.run(["chown", "-R", "munge:munge", *map(str, MUNGE)], check=True)
        CONF.write_text(TEXT.format(host=host, folder=tmp_path, cores=os.cpu_count()))
        if not re.search(rf"\b{re.escape(host)}\b", hosts):
            HOSTS.write_text(f"{hosts}127.0.0.1 {host}\n")
        for command in (
            ["runuser", "-u", "munge", "--", "munged", "--foreground"],
            ["slurmctld", "-D"],
            ["slurmd", "-D"],
        ):
            daemons.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            if "munged" in command:
                wait_for(lambda: list(MUNGE[0].glob("*.socket.2")), "munge", 30)
        wait_for(lambda: "idle" in output("sinfo", "-h"), "an idle node", 60)
        yield
    finally:
        for daemon in reversed(daemons):
            kill_all(daemon)  # the jobs of a node are below its daemon; munged is below runuser
        CONF.unlink(missing_ok=True)
        HOSTS.write_text(hosts)


def output(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout


@pytest.mark.usefixtures("owners", "slurm")  # in this order: owners are put back when the daemons have ended
def test_on_slurm_with_a_job_killed(make_place, wait_for, tmp_path):
    """The profile of the repository, but for the GPUs and the size of the node."""
    profile = yaml.safe_load((ROOT / "workflow/profiles/slurm/config.yaml").read_text())
    profile |= {
        "default-resources": ["runtime=30", "mem_mb=1500", "cpus_per_task=1"],
        "set-resources": ["node:gpu=0"],
        "latency-wait": 5,
    }
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "config.yaml").write_text(yaml.safe_dump(profile))
    place = make_place(seeds=[7], teachers={"perceptron": {**RECIPE, "epochs": 400}})
    driver = place.reproduce("--profile", str(tmp_path / "profile"), "--retries", "2")
    wait_for(lambda: list(place.runs.glob("teacher-perceptron-7-*/state.msgpack")), "a state by a Slurm job", 240)
    queue = output("squeue", "-h", "-o", "%i %T").split()
    assert "RUNNING" in queue
    first = next(place.runs.glob("teacher-perceptron-7-*/checkpoints/*.msgpack"))
    written = first.stat().st_mtime
    subprocess.run(["scancel", "--full", "--signal=KILL", queue[0]], check=True)
    printed = driver.communicate(timeout=540)[0]
    assert driver.returncode == 0, printed[-3000:]
    rows, _ = place.tables()
    assert len(rows) == 4 and {row["seed"] for row in rows} == {"7"} and first.stat().st_mtime == written
