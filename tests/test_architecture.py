"""The layout's promises: what imports what, what is private, what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fusedact
from fusedact import codegen, functional, registry

PACKAGE = Path(fusedact.__file__).parent
KERNELS = PACKAGE / "kernels"
HOST = sorted(PACKAGE.glob("*.py"))
# Each imports a library of its own, and what users import: nothing imports them.
INTEGRATIONS = sorted((PACKAGE / "integrations").glob("*.py"))

# A file may import those to its left.
ORDER = [
    *("kernels", "registry", "compat", "checks", "cpu_forms", "eager", "inverses", "saved_forms", "saving"),
    *("sharding", "dispatch"),
    # The engine.
    *("expressions", "algebra_rules", "algebra_arithmetic", "algebra_choices", "algebra"),
    *("lowering", "tracing", "codegen", "sources", "lean", "engine"),
    *("table_checks", "table_rows", "tables", "table_grid", "large_pages"),
    # Statistics on the way.
    *("figures", "flatness", "gathering"),
    *("pieces", "table_sums", "execution"),
    *("hosted", "seeds", "cpu_kernels", "gating_limits", "gating_pieces", "gating_operators"),
    *("biased_pieces", "biased_operators"),
    *("row_blocks", "row_operators", "rows", "cpu_gates", "cpu_curves", "catalog"),
    *("operators", "packing", "cpu_saved", "saved", "ops", "learned", "products"),
    *("describe", "piecewise", "table_parameters"),
    # What PWL can do beside.
    *("quadrature", "callables", "placement", "fitting", "simplification", "export", "drawing", "piecewise_module"),
    *("rowwise", "randomized", "gating", "gated_modules", "biased", "affine", "perceptron"),
    *("functional", "modules", "pairs", "custom", "initialization"),
    *("linear_modules", "perceptron_modules", "regularization", "stubs", "memory"),
    # convert, and what it is made of.
    *("twin_modules", "functional_calls", "call_sites", "rewriting", "surgery", "conversion_targets"),
    *("conversion_report", "parameter_groups", "verification", "conversion"),
    # Optimizers.
    "loggers",
    *("lean_steps", "rule_programs", "rule_steps", "rule_kernels", "rules", "step_plans", "optimizer"),
    *("update_rules", "ready_rules", "step_log", "optim"),
    # Watching.
    *("rereading", "histograms", "arrival", "heatmaps", "watching", "monitoring", "logs"),
    # What shows, measures and tests, and the command line.
    *("properties", "plotting", "demo", "environment", "stopwatch", "selftest", "terminal", "cli_measure", "cli"),
]


def imports(path):
    """The siblings that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            yield from [node.module.split(".")[0]] if node.module else [a.name for a in node.names]


@pytest.mark.parametrize("name", ORDER)
def test_imports_point_one_way(name):
    if name == "kernels":
        return
    known = set(ORDER)
    later = set(ORDER[ORDER.index(name) :])
    assert not [i for i in imports(PACKAGE / f"{name}.py") if i in known & later]


def test_the_order_names_every_file():
    assert {p.stem for p in HOST} - {"__init__", "__main__"} == set(ORDER) - {"kernels"}


@pytest.mark.parametrize("path", INTEGRATIONS, ids=lambda p: p.stem)
def test_integrations_stand_outside(path):
    """They import files of the package, not each other, and the package none of them."""
    found = {
        (node.level, (node.module or "").split(".")[0])
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
    }
    assert {level for level, _ in found} <= {2}
    assert {module for _, module in found} <= {"", *ORDER}
    assert not any("integrations" in imports(other) for other in HOST)


def test_kernels_import_no_host_file():
    assert (PACKAGE / "kernels").is_symlink() or not (PACKAGE.parent / "kernels").exists()
    assert not (KERNELS / "__init__.py").exists()
    stems = {p.stem for p in KERNELS.glob("*.py")}
    for path in KERNELS.glob("*.py"):
        assert set(imports(path)) <= stems
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
    # The processor's time, which others on the machine do not lengthen.
    code = "import torch, time, sys; t = time.process_time(); import fusedact; print(time.process_time() - t)"
    assert float(run(code)) < 0.5
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
