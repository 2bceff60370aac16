"""Between Snakemake and Kubernetes: `jobs.py submit SCRIPT`, `status NAME`, `cancel NAME...`, by `kubectl`.

A job is Snakemake's script, run in a pod of the image `$KDLIB_IMAGE` that mounts the volume claim `$KDLIB_CLAIM` where
this repository is. (Snakemake's own Kubernetes plugin does without a shared volume, through object storage; but a
training's state must be where the next attempt finds it, and that is not a result of any rule.)
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

ROOT = Path(__file__).resolve().parents[3]


def manifest(script: Path) -> dict:
    """The Job for one of Snakemake's scripts, which carries its resources in a comment."""
    found = re.search(r"^# properties = (.*)$", script.read_text(), re.M)
    properties = json.loads(found.group(1)) if found else {}
    wanted = properties.get("resources", {})
    name = (
        re.sub(r"[^a-z0-9]+", "-", f"kdlib-{properties.get('rule', 'job')}-{script.stem}".lower())
        .strip("-")[:50]
        .strip("-")
    )
    name += f"-{uuid4().hex[:8]}"  # Snakemake counts from one again for each attempt
    limits = {"nvidia.com/gpu": str(wanted["gpu"])} if wanted.get("gpu") else {}
    requests = {"cpu": str(wanted.get("cpus_per_task", 1)), "memory": f"{wanted.get('mem_mb', 8000)}Mi"}
    container = {
        "name": "job", "image": os.environ["KDLIB_IMAGE"], "command": ["sh", str(script)], "workingDir": str(ROOT),
        "env": [{"name": "PYTHONPATH", "value": str(ROOT)}],  # the repository on the volume, not the image's
        "resources": {"requests": {**requests, **limits}, "limits": limits},
        "volumeMounts": [{"name": "kdlib", "mountPath": str(ROOT)}],
    }  # fmt: skip
    volume = {"name": "kdlib", "persistentVolumeClaim": {"claimName": os.environ["KDLIB_CLAIM"]}}
    pod = {"restartPolicy": "Never", "containers": [container], "volumes": [volume]}
    return {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "ttlSecondsAfterFinished": 86400, "template": {"spec": pod}},
    }  # fmt: skip


def kubectl(*words, **options) -> str:
    """What `kubectl` prints; its error ends this process."""
    run = subprocess.run(["kubectl", *words], capture_output=True, text=True, **options)
    if run.returncode:
        sys.exit(run.stderr.strip() or f"kubectl {words[0]} failed")
    return run.stdout


def submit(script: Path):
    """Make the Job and print its name."""
    if missing := [name for name in ("KDLIB_IMAGE", "KDLIB_CLAIM") if not os.environ.get(name)]:
        sys.exit(
            f"set {' and '.join(missing)}: the image of workflow/Containerfile, and the volume claim of this folder"
        )
    job = manifest(script)
    kubectl("create", "-f", "-", input=json.dumps(job))
    print(job["metadata"]["name"])


def status(name: str):
    """Print what Snakemake wants to hear: running, success or failed."""
    run = subprocess.run(["kubectl", "get", "job", name, "-o", "json"], capture_output=True, text=True)
    if run.returncode:  # one that is gone has failed; a server that does not answer says nothing about the job
        print("failed" if "not found" in run.stderr.lower() else "running")
        return
    found = json.loads(run.stdout).get("status", {})
    print("success" if found.get("succeeded") else "failed" if found.get("failed") else "running")


if __name__ == "__main__":
    action, *arguments = sys.argv[1:]
    if action == "submit":
        submit(Path(arguments[-1]))
    elif action == "status":
        status(arguments[-1])
    else:
        kubectl("delete", "job", "--ignore-not-found", *arguments)
