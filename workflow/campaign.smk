# The campaign of a scale: teachers, then students, then kernels along their trainings, then tables. Each node is a
# papermill run of a notebook of the book; its parameters are Snakemake parameters, so that a changed scale re-runs only
# what is new. Inside a node, a training that has ended is read and a killed one goes on (`kdlib.experiments.runs`).
import json

PLACES, STATES = plan.saved_places(CAMPAIGN)  # where a task's images are, if not where its name says
GPU = "--gpu" if "cuda" in LOCK else ""
NODES = {(node.kind, node.key): node for node in plan.nodes(CAMPAIGN, PLACES, on_gpu=bool(GPU))}
HERE = f"_build/{CAMPAIGN}/campaign"

for kind, page in plan.NOTEBOOKS.items():  # a node is not run again when only its plots change
    computed = keys.key(keys.notebook_of(page), LOCK, starts=(plan.COMPUTED_BY[kind],))
    keys.keep(f"_build/{CAMPAIGN}/keys/{kind}.json", computed)


def rows_of(*kinds):
    return [f"{HERE}/{kind}/{key}.csv" for kind, key in NODES if kind in kinds]


def named_rows(*kinds):
    names = [NODES[place].experiment for place in NODES if place[0] in kinds]
    return [f"{name}:{path}" if name else path for name, path in zip(names, rows_of(*kinds))]


rule node:
    wildcard_constraints:
        kind="|".join(plan.NOTEBOOKS),
        key="|".join(sorted({re.escape(key) for _, key in NODES})) or "none",
    input:
        lambda wildcards: [f"{HERE}/{kind}/{key}.csv" for kind, key in NODES[wildcards.kind, wildcards.key].needs],
        key=f"_build/{CAMPAIGN}/keys/{{kind}}.json",
    output:
        notebook=f"{HERE}/{{kind}}/{{key}}.ipynb",
        rows=f"{HERE}/{{kind}}/{{key}}.csv",
    params:
        # of the wildcards alone: what depends on outputs does not count when Snakemake compares parameters
        given=lambda wildcards: json.dumps(
            {
                **NODES[wildcards.kind, wildcards.key].parameters,
                "folder": str(Path(f"_build/{CAMPAIGN}/runs").resolve()),
                "rows": str(Path(f"{HERE}/{wildcards.kind}/{wildcards.key}.csv").resolve()),
            }
        ),
        data=lambda wildcards: json.dumps(STATES),  # so that changed images count as a change
        notebook=lambda wildcards: f"book/{plan.NOTEBOOKS[wildcards.kind]}.ipynb",
    log:
        f"{HERE}/{{kind}}/{{key}}.log",
    resources:
        gpu=1,
    retries: int(config.get("retries", 0))
    shell:
        "python -m workflow.execute {params.notebook} {output.notebook} --key {input.key} {GPU}"
        " --parameters {params.given:q} >{log} 2>&1"
        " || {{ tail -n 5 {log} >&2; exit 1; }}"


rule campaign_table:
    wildcard_constraints:
        table="|".join(plan.TABLES),
    input:
        lambda wildcards: rows_of(*plan.TABLES[wildcards.table]),
    output:
        f"_build/{CAMPAIGN}/records/{{table}}.csv",
    params:
        named=lambda wildcards: named_rows(*plan.TABLES[wildcards.table]),
    shell:
        "python -m workflow.tables {output} {params.named}"
