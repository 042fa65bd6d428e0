"""The layout's promises: what imports what, what is private, what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fusedact
from fusedact import functional, registry
from fusedact.engine import codegen

PACKAGE = Path(fusedact.__file__).parent
KERNELS = PACKAGE / "kernels"
HOST = sorted(
    p
    for p in [*PACKAGE.glob("*.py"), *PACKAGE.glob("*/*.py")]
    if p.parent.name not in ("integrations", "kernels") and (p.name != "__init__.py" or p.parent.name == "optim")
)
# Each imports a library of its own, and what users import: nothing imports them.
INTEGRATIONS = sorted((PACKAGE / "integrations").glob("*.py"))


def of(folder, *names):
    return [f"{folder}.{name}" for name in names]


# A file may import those before it.
ORDER = [
    "kernels",
    "registry",
    "compat",
    "checks",
    *of("cpu", "cpu_forms"),
    "economical",
    "eager",
    *of("saving", "inverses", "saved_forms", "saving"),
    "crossovers",
    *of("cpu", "cpu_gates", "cpu_curves", "large_pages", "cpu_kernels"),
    # Statistics on the way.
    *of("watching", "figures", "flatness", "gathering"),
    "sharding",
    "dispatch",
    "explaining",
    "shortest",
    # The engine.
    *of("engine", "expressions", "ranges", "algebra_rules", "algebra_arithmetic", "algebra_choices", "algebra_sums"),
    *of("engine", "algebra"),
    *of("engine", "lowering", "tracing", "codegen", "sources", "lean", "engine"),
    *of("piecewise", "table_checks", "table_rows", "tables", "table_grid"),
    *of("cpu", "caches", "totals", "pieces"),
    *of("piecewise", "table_sums"),
    "execution",
    *of("hosts", "hosted", "seeds", "gating_limits", "gating_pieces", "gating_operators"),
    *of("hosts", "biased_pieces", "biased_operators"),
    *of("rowwise", "row_blocks", "row_operators", "rows"),
    "spelled_forms",
    "catalog",
    "operators",
    *of("saving", "packing", "cpu_saved", "saved"),
    "derivatives",
    "autograd",
    "ops",
    *of("piecewise", "learned"),
    *of("hosts", "products"),
    "describe",
    *of("piecewise", "piecewise", "table_parameters"),
    # What PWL can do beside.
    "quadrature",
    *of("piecewise", "callables", "placement", "fitting", "simplification", "export"),
    *of("looking", "drawing"),
    *of("piecewise", "piecewise_module"),
    *of("rowwise", "rowwise"),
    "randomized",
    *of("hosts", "gating", "gated_modules", "biased", "affine", "perceptron"),
    "functional",
    "modules",
    *of("engine", "pairs"),
    "custom",
    "initialization",
    *of("hosts", "linear_modules", "perceptron_modules"),
    *of("piecewise", "regularization"),
    "stubs",
    *of("saving", "memory"),
    # convert, and what it is made of.
    *of("conversion", "twin_modules", "functional_calls", "leads"),
    *of("conversion", "reading", "products", "call_sites", "rewriting", "surgery"),
    *of("conversion", "conversion_targets"),
    *of("conversion", "conversion_report", "parameter_groups", "verification", "reached", "conversion"),
    # Optimizers.
    *of("watching", "loggers"),
    *of("optim", "lean_steps", "rule_programs", "rule_steps", "rule_kernels", "rules", "step_plans", "optimizer"),
    *of("optim", "update_rules", "ready_rules", "step_log"),
    "optim",
    # Watching.
    *of("watching", "rereading", "histograms", "arrival", "heatmaps", "watching", "monitoring", "logs"),
    # What shows, measures and tests, and the command line.
    "properties",
    *of("looking", "plotting"),
    "demo",
    *of("looking", "environment", "stopwatch", "selftest", "terminal", "cli_measure", "cli"),
]


def named(path):
    """A file as ORDER names it; a folder by its own name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """The files of the package that a file imports, wherever in it, as ORDER names them; `kernels` is one."""
    folder = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*folder[: len(folder) - node.level + 1], *(node.module.split(".") if node.module else [])]
            if base[:1] == ["kernels"]:
                yield "kernels"
                continue
            for alias in node.names:
                inner = ".".join([*base, alias.name])
                yield inner if inner in ORDER or not base else ".".join(base)


@pytest.mark.parametrize("name", ORDER)
def test_imports_point_one_way(name):
    if name == "kernels":
        return
    file = PACKAGE / (name.replace(".", "/") + ".py")
    found = set(imports(file if file.exists() else PACKAGE / name / "__init__.py"))
    assert found <= set(ORDER[: ORDER.index(name)])


def test_the_order_names_every_file():
    assert {named(p) for p in HOST} - {"", "__main__"} == set(ORDER) - {"kernels"}


def test_folders_hold_no_code_of_their_own():
    """But for `fusedact.optim`, which people import."""
    for path in (p for p in PACKAGE.glob("*/__init__.py") if p.parent.name not in ("optim", "integrations")):
        (only,) = ast.parse(path.read_text()).body
        assert isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant)


@pytest.mark.parametrize("path", INTEGRATIONS, ids=lambda p: p.stem)
def test_integrations_stand_outside(path):
    """They import files of the package, not each other, and the package none of them."""
    assert set(imports(path)) <= set(ORDER)
    assert not any(name.startswith("integrations") for other in HOST for name in imports(other))


def test_kernels_import_no_host_file():
    assert (PACKAGE / "kernels").is_symlink() or not (PACKAGE.parent / "kernels").exists()
    assert not (KERNELS / "__init__.py").exists()
    stems = {p.stem for p in KERNELS.glob("*.py")}
    for path in KERNELS.glob("*.py"):
        nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.level]
        assert {n.level for n in nodes} <= {1}
        assert {name for n in nodes for name in ([n.module] if n.module else [a.name for a in n.names])} <= stems
        assert "fusedact" not in {
            a.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Import) for a in n.names
        }


def private_names(path):
    """Attributes of torch or triton that begin with one underscore."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            root = node
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in ("torch", "triton", "tl"):
                yield ast.unparse(node)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("torch", "triton"):
            yield from (p for p in [*node.module.split("."), *(a.name for a in node.names)] if p.startswith("_"))


@pytest.mark.parametrize(
    "path", [*HOST, *INTEGRATIONS, *sorted(KERNELS.glob("*.py"))], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_private_names_stay_in_compat(path):
    found = list(private_names(path))
    assert bool(found) == (path.name == "compat.py"), found


def test_no_file_is_named_like_a_function():
    assert not {p.stem for p in HOST} & set(functional.__all__)
    assert not {p.stem for p in HOST} & {n for n in vars(fusedact) if callable(getattr(fusedact, n))}


@pytest.mark.parametrize("name", registry.names("elementwise"))
def test_every_record_is_exported(name):
    assert name in functional.__all__
    assert hasattr(fusedact, registry.get(name).module)


def test_generated_code_calls_what_there_is():
    for module, functions in codegen.MODULES.items():
        defined = {
            n.name for n in ast.parse((KERNELS / f"{module}.py").read_text()).body if isinstance(n, ast.FunctionDef)
        }
        assert set(functions) <= defined


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_light():
    # The processor's time, beside torch's own: machines are fast and slow, and the others on them work or rest.
    clock = "time.process_time()"
    code = f"import time; a = {clock}; import torch; b = {clock}; import fusedact; print(({clock} - b) / (b - a))"
    assert min(float(run(code)) for _ in range(3)) < 0.5
    others = ("triton", "matplotlib", "rich", "transformers", "keras", "torch.distributed.tensor")
    assert run(f"import fusedact, sys; print([m for m in {others} if m in sys.modules])") == "[]"


@pytest.mark.parametrize("missing", ["triton", "numpy"])
def test_works_without(missing):
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import torch, fusedact\n"
        "x = torch.randn(8, requires_grad=True); fusedact.ReLUSigmoid(0.1)(x).sum().backward(); print(x.grad.shape)"
    )
    assert run(code) == "torch.Size([8])"
