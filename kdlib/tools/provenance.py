"""What a run was made with: device, versions, and a hash of the code that it reaches.

The code that a start (a module, a notebook) reaches is the closure of its imports inside kdlib, those inside functions
included. Files are hashed as syntax trees without comments and docstrings: new words change nothing. A package whose
`__init__` only imports names for others to use passes a request for a name on to the file that defines it, so that a
page that uses one file of a package does not depend on the others.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the repository
PACKAGES = ("jax", "jaxlib", "neural-tangents", "numpy", "scipy")


def device_name() -> str:
    """What JAX computes on, e.g. "cpu" or "NVIDIA H100"."""
    import jax

    return jax.devices()[0].device_kind


def require_device() -> None:
    """RuntimeError where `$KDLIB_DEVICE` names a kind of device (gpu, cpu) and JAX computes on another.

    A job for a GPU whose driver or plugin is missing would else run on the CPU for days.
    """
    import jax

    wanted, found = os.environ.get("KDLIB_DEVICE", ""), jax.devices()[0]
    if wanted and found.platform != wanted:
        raise RuntimeError(
            f"this job is for a {wanted}, and JAX computes on {found.platform} ({found.device_kind}): look at the "
            "driver, at CUDA_VISIBLE_DEVICES and at the environment (`make environment ACCELERATOR=cuda`)"
        )


@lru_cache
def provenance(start: str | Path = "kdlib") -> dict[str, str]:
    """Versions, platform, and under "kdlib" the hash of the code that `start` reaches, as for `reached`; by default of
    all.

    Packages that are not installed are left out.
    """
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    files = sorted((ROOT / "kdlib").rglob("*.py")) if start == "kdlib" else reached(start)
    return {
        "python": platform.python_version(),
        **versions,
        "machine": platform.machine(),
        "kdlib": _combined(files),
    }


@lru_cache
def code_hash(*starts: str | Path) -> str:
    """Hash, twelve hexadecimal digits, of the code that modules or notebooks reach; see `reached`.

    Computed once a process: a process goes on with the code that it has loaded.
    """
    return _combined(reached(*starts))


def reached(*starts: str | Path) -> list[Path]:
    """The files that these modules ("kdlib.path") or notebooks (paths of `.ipynb` files) run through, sorted.

    Notebooks themselves are among them.
    """
    found: set[Path] = set()
    waiting: list[str] = []
    for start in starts:
        path = Path(start)
        if path.suffix == ".ipynb":
            found.add(path.resolve())
            waiting += _imports(path.resolve(), "")
        elif _file_of(str(start)):
            waiting.append(f"{start}:*")
        else:
            raise ValueError(f"no module or notebook {str(start)!r}: nothing would ever be out of date")
    seen = set()
    while waiting:
        wanted = waiting.pop()
        if wanted in seen:
            continue
        seen.add(wanted)
        module, _, name = wanted.partition(":")
        path = _file_of(module)
        if path is None:
            continue
        found.add(path)
        waiting += [module.rsplit(".", k)[0] for k in range(1, module.count(".") + 1)]  # packages around it run, too
        if path.name == "__init__.py" and name and name != "*" and _only_exports(path):
            waiting += _exported(path, module, name)
        elif name or path.name != "__init__.py" or not _only_exports(path):
            waiting += _imports(path, module)
    return sorted(found)


def source_hash(path: Path) -> str:
    """Hash of a Python file or a notebook's code cells, blind to comments, docstrings, outputs and layout."""
    path = Path(path)
    return _source_hash(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=512)
def _source_hash(path: Path, _changed: int) -> str:
    if path.suffix == ".ipynb":  # where a cell ends decides which output is whose
        return _hash("\n".join(cell_hash(cell) for cell in code_cells(path)))
    return _hash(ast.dump(_without_docstrings(_tree(path))))


def cell_hash(source: str) -> str:
    """Hash of a code cell, as for `source_hash`; a semicolon at its end counts, because it hides an output."""
    return _hash(ast.dump(_without_docstrings(ast.parse(source))) + ";" * source.rstrip().endswith(";"))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _combined(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name}".encode())
        digest.update(source_hash(path).encode())
    return digest.hexdigest()[:12]


def _tree(path: Path) -> ast.Module:
    if path.suffix == ".ipynb":
        return ast.parse("\n\n".join(code_cells(path)))
    return ast.parse(path.read_text())


def code_cells(notebook: Path) -> list[str]:
    """Sources of a notebook's code cells, in order."""
    cells = json.loads(Path(notebook).read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            # Strings that stand alone do nothing, wherever they are.
            body = [line for line in node.body if not (isinstance(line, ast.Expr) and _is_text(line.value))]
            node.body = body or [ast.Pass()]
    return tree


def _is_text(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


@lru_cache(maxsize=512)
def _file_of(module: str) -> Path | None:
    """The file of a module of kdlib; None of anything else."""
    if module.split(".")[0] != "kdlib":
        return None
    base = ROOT / module.replace(".", "/")
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), None)


def _imports(path: Path, module: str) -> list[str]:
    """What a file asks for: "module:name", or "module:*" where names of a whole module may be used."""
    return [wanted for wanted, _ in _imported_names(path, module)]


def _imported_names(path: Path, module: str) -> Iterator[tuple[str, str]]:
    """`("module:name", name it is given)` of each import of kdlib, anywhere in a file."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in _import_statements(path, path.stat().st_mtime_ns):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if _file_of(alias.name):
                    yield f"{alias.name}:*", alias.asname or alias.name
        else:
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            if not _file_of(base):
                continue
            for alias in node.names:
                name = alias.asname or alias.name
                if _file_of(f"{base}.{alias.name}") and not _is_exported(base, alias.name):
                    yield f"{base}.{alias.name}:*", name  # a module, all of whose names may be used
                else:
                    yield f"{base}:{alias.name}", name


@lru_cache(maxsize=512)
def _import_statements(path: Path, _changed: int) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(_tree(path)) if isinstance(node, (ast.Import, ast.ImportFrom))]


def _is_exported(package: str, name: str) -> bool:
    path = _file_of(package)
    return path is not None and any(given == name for _, given in _imported_names(path, package))


def _only_exports(path: Path) -> bool:
    """Whether a package's `__init__` does nothing but import names and list them."""
    for line in _tree(path).body:
        listing = isinstance(line, ast.Assign) and [getattr(t, "id", "") for t in line.targets] == ["__all__"]
        text = isinstance(line, ast.Expr) and _is_text(line.value)
        if not (listing or text or isinstance(line, (ast.Import, ast.ImportFrom))):
            return False
    return True


def _exported(path: Path, module: str, name: str) -> list[str]:
    """What a package asks for to give `name`; all that it imports, if the name is not found."""
    found = [wanted for wanted, given in _imported_names(path, module) if given == name]
    return found or _imports(path, module)
