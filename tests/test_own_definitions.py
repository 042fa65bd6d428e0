"""Where an activation of one's own may be defined, and what may be at work around its first call."""

from __future__ import annotations

import ast
import copy
import linecache
import math
import pickle
import subprocess
import sys
import textwrap
import threading
import types

import own_module
import pages
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fusedact
from fusedact import compat
from fusedact.engine import codegen, engine


def fresh():
    """An activation that has not been called, and its plain formula."""

    def bump(x, a=0.5):
        return torch.tanh(x) * torch.exp(-a * x * x)

    return fusedact.activation(bump), bump


def same(got, want):
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


x = torch.linspace(-3, 3, 12).reshape(3, 4)

# ----- where it is defined


def test_module_level():
    same(own_module.gate(x, 2.0), own_module.plain(x, 2.0))
    assert own_module.gate.__module__ == "own_module" and own_module.gate.__doc__.startswith("x sigmoid")


@pytest.mark.parametrize("scale", [2.0, -0.5])
def test_closure_over_numbers(scale):
    """They are constants, read at the first use; each closure has its own."""

    @fusedact.activation
    def scaled(x):
        return scale * torch.sigmoid(x)

    with fusedact.backend("eager"):
        same(scaled(x), scale * torch.sigmoid(x))
    assert repr(scale) in scaled.source


def test_closures_made_in_a_loop_stay_apart():
    def make(k):
        return fusedact.activation(lambda x: torch.sigmoid(x) * k)

    made = [make(k) for k in (1.0, 2.0, 3.0)]
    for how in (lambda f: f(x), in_operator):
        for k, f in zip((1.0, 2.0, 3.0), made, strict=True):
            same(how(f), torch.sigmoid(x) * k)


class Watching(TorchDispatchMode):
    """Keeps the names of the operators that it sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(compat.schema(func).name)
        return func(*args, **kwargs or {})


def in_operator(f, *args):
    """A call that goes through the operator."""
    with fusedact.backend("eager"), Watching() as watching:
        y = f(x, *args)
    assert "fusedact::own" in watching.seen
    return y


def test_lambda():
    f = fusedact.activation(lambda x, a=2.0: torch.sin(a * x))
    same(f(x), torch.sin(2 * x))
    same(f.module(a=3.0)(x), torch.sin(3 * x))
    assert "def activation" not in repr(f) and "lambda" in repr(f)
    compile(f.source, "source", "exec")


def test_method_of_a_class():
    class Family:
        @staticmethod
        @fusedact.activation
        def cube(x):
            return x**3

    same(Family.cube(x), x**3)


def test_callable_object():
    class Scaled:
        def __init__(self, k):
            self.k = k

        def __call__(self, x, a=1.0):
            return self.k * a * torch.sigmoid(x)

    f = fusedact.activation(Scaled(3.0))
    same(f(x, 2.0), 6 * torch.sigmoid(x))


SCRIPT = """
import copy, multiprocessing, pickle, sys
import torch
import fusedact

@fusedact.activation
def snake(x, a=1.0):
    return x + torch.sin(a * x) ** 2 / a

def work(f, module, x, queue):
    queue.put((f(x, 2.0).tolist(), module(x).tolist(), module is not None and f is snake))

if __name__ == "__main__":
    x = torch.linspace(-1, 1, 5)
    module = snake.module(a=0.5, learnable=True)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=work, args=(snake, module, x, queue))
    process.start()
    y, z, found = queue.get(timeout=60)
    process.join()
    assert process.exitcode == 0 and found
    assert torch.allclose(torch.tensor(y), snake(x, 2.0)) and torch.allclose(torch.tensor(z), module(x))
    assert pickle.loads(pickle.dumps(snake)) is snake
    print("done")
"""


def test_script_with_spawned_processes(tmp_path):
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    done = subprocess.run([sys.executable, "-W", "error", str(file)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


def test_program_from_standard_input():
    """There is no file that the function's lines could be read from."""
    code = (
        "import torch, fusedact\n"
        "f = fusedact.activation(lambda x: x * torch.sigmoid(x))\n"
        "print(f(torch.zeros(2)).tolist(), 'sigmoid' in f.source)\n"
        "try: fusedact.activation(lambda x: x.sum())(torch.zeros(2))\n"
        "except ValueError as error: print('sum' in str(error))\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-"], input=code, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[0.0, 0.0] True\nTrue\n", done.stderr


def test_doctest():
    text = textwrap.dedent("""
        >>> import torch, fusedact
        >>> @fusedact.activation
        ... def squared(x, k=2.0):
        ...     return k * torch.relu(x) ** 2
        >>> squared(torch.tensor([1.0, -1.0]))
        tensor([2., 0.])
        >>> squared
        <fusedact activation squared(x: torch.Tensor, k: float | torch.Tensor = 2.0, inplace: bool = False, *, ...>
    """)
    pages.examples(text, {}, "own")


class Notebook:
    """Runs cells as IPython does: compiled under a name of their own, which linecache knows."""

    def __init__(self):
        self.module = types.ModuleType("__main__")
        self.count = 0

    def run(self, cell):
        self.count += 1
        cell = textwrap.dedent(cell)
        name = f"<ipython-input-{self.count}>"
        linecache.cache[name] = (len(cell), None, cell.splitlines(keepends=True), name)
        exec(compile(cell, name, "exec"), vars(self.module))
        return self.module


CELL = """
    import torch, fusedact

    @fusedact.activation
    def f(x, a=1.0):
        return {}
"""


def test_notebook_cells():
    """A name that is defined again means the new formula; what was made of the old one keeps it."""
    notebook = Notebook()
    old = notebook.run(CELL.format("torch.sigmoid(a * x)")).f
    module = old.module(a=2.0)
    same(old(x), torch.sigmoid(x))
    new = notebook.run(CELL.format("torch.tanh(a * x)")).f
    for call in (lambda f: f(x), in_operator):
        same(call(new), torch.tanh(x))
        same(call(old), torch.sigmoid(x))
        same(call(module), torch.sigmoid(2 * x))
        same(call(new.module(a=2.0)), torch.tanh(2 * x))


def test_notebook_error_shows_the_line():
    with pytest.raises(ValueError, match=r"<ipython-input-1>, line 6: return x - x\.mean\(\)"):
        Notebook().run(CELL.format("x - x.mean()")).f(x)


def test_graph_made_before_a_redefinition_keeps_its_formula():
    """Backward runs the formula that forward ran."""
    notebook = Notebook()
    old = notebook.run(CELL.format("torch.sigmoid(a * x)")).f
    leaf = x.clone().requires_grad_()
    with fusedact.backend("eager"):
        y = old(leaf)
        new = notebook.run(CELL.format("torch.tanh(a * x)")).f
        new(x)
        with Watching():
            (got,) = torch.autograd.grad(y.sum(), [leaf])
    same(got, torch.sigmoid(x) * torch.sigmoid(-x))


NAMES = ("exp", "exp_", "tl", "params", "precise", "g", "gg_a", "t1", "applied", "Tensor", "ä", "_a", "torch_")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("first", ["x", "exp", "float"])
def test_any_names(name, first):
    """Of arguments, of variables, and of the function itself."""
    if name == first:
        return
    text = (
        f"def {name}({first}, {name}=2.0, exp__=1.0):\n"
        f"    tl_ = torch.exp({first} * {name})\n"
        f"    return tl_ / (exp__ + tl_)"
    )
    namespace = {"torch": torch, "__name__": __name__}
    exec(text, namespace)
    f = fusedact.activation(namespace[name])
    with fusedact.backend("eager"):
        same(f(x, 0.3, 2.0), namespace[name](x, 0.3, 2.0))
    same(f.module(**{name: 0.5})(x), namespace[name](x, 0.5))
    made = engine.program(f.spec.eager, name, [p.name for p in f.spec.parameters], "here")
    for text in (f.source, engine.double_backward(made)):
        tree = ast.parse(text)
        imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
        for function in (n for n in tree.body if isinstance(n, ast.FunctionDef)):
            stored = [n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
            stored += [a.arg for a in function.args.args]
            assert len(set(stored) - {"_"}) == len([s for s in stored if s != "_"])
            assert not {*stored, function.name} & {*imported, *codegen.RESERVED} - {"precise"}
            assert all(s.isascii() for s in stored)


@pytest.mark.parametrize("name", ["float", "int", "Tensor", "triton", "sigmoid", "params", "drôle"])
def test_any_name_of_a_function(name):
    namespace = {"torch": torch, "__name__": __name__}
    exec(f"def {name}(x, a=2.0):\n    return x * torch.sigmoid(a * x)", namespace)
    f = fusedact.activation(namespace[name])
    same(f(x), namespace[name](x))
    (forward, _) = (n for n in ast.parse(f.source).body if isinstance(n, ast.FunctionDef))
    assert forward.name not in codegen.RESERVED and forward.name.isascii()


def test_long_formulas():
    """What is used twice is held once; and no formula is too deep."""

    def squared(x):
        for _ in range(40):
            x = x * x + 0.1
        return x * torch.exp(x) / (1 + torch.exp(x))

    def iterated(x, a=0.9):
        y = x
        for _ in range(300):
            y = torch.sin(y) * a + x
        return y

    for plain in (squared, iterated):
        leaf = x.clone().requires_grad_()
        with fusedact.backend("eager"):
            y = fusedact.activation(plain)(leaf / 4)
        same(y, plain(leaf / 4))
        same(*(torch.autograd.grad(t.sum(), [leaf])[0] for t in (y, plain(leaf / 4))))


# ----- what is at work around its first call


def test_many_threads_at_once():
    f, plain = fresh()
    start = threading.Barrier(16)
    results, errors = [], []

    def work():
        try:
            leaf = x.clone().requires_grad_()
            start.wait()
            with fusedact.backend("eager"):
                y = f(leaf, 0.3)
                (grad,) = torch.autograd.grad(y.sum(), [leaf])
            results.append((y.detach(), grad, f.spec))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not errors and len(results) == 16
    assert len({id(spec) for *_, spec in results}) == 1
    for y, grad, _ in results:
        same(y, plain(x, 0.3))
        assert torch.equal(grad, results[0][1])


BACKENDS = ["auto", "eager"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_vmap(backend):
    f, plain = fresh()
    with fusedact.backend(backend):
        same(torch.func.vmap(f)(x), plain(x))
        values = torch.tensor([0.1, 0.2, 0.3])
        same(torch.func.vmap(f)(x, values), plain(x, values[:, None]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_grad(backend):
    f, plain = fresh()
    with fusedact.backend(backend):
        for order in (torch.func.grad, lambda h: torch.func.grad(torch.func.grad(h))):
            got, want = (order(lambda v, h=h: h(v, v))(torch.tensor(0.7)) for h in (f, plain))
            same(got, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_jvp(backend):
    f, plain = fresh()
    with fusedact.backend(backend):
        for got, want in zip(*(torch.func.jvp(h, (x,), (x + 1,)) for h in (f, plain)), strict=True):
            same(got, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_hessian(backend):
    f, plain = fresh()
    with fusedact.backend(backend):
        same(*(torch.func.hessian(lambda v, h=h: h(v).sum())(x[0]) for h in (f, plain)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_functionalize(backend):
    f, plain = fresh()
    with fusedact.backend(backend):
        same(torch.func.functionalize(f)(x), plain(x))


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast(backend):
    """Which leaves elementwise functions as they are."""
    f, plain = fresh()
    with fusedact.backend(backend), torch.autocast("cpu", torch.bfloat16):
        y = f(x)
        assert y.dtype == torch.float32
        half = f(x.bfloat16())
    same(y, plain(x))
    assert half.dtype == torch.bfloat16
    assert "bfloat16" not in f.source


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_no_gradients(backend, mode):
    f, plain = fresh()
    with fusedact.backend(backend):
        with mode():
            y = f(x)
            same(y, plain(x))
            assert not y.requires_grad
        leaf = x.clone().requires_grad_()
        f(leaf).sum().backward()
        (want,) = torch.autograd.grad(plain(leaf).sum(), [leaf])
        same(leaf.grad, want)


def test_set_grad_enabled_inside():
    """What the function itself switches off has no gradient, in kernels as in PyTorch."""

    def half_frozen(x):
        with torch.no_grad():
            scale = torch.sigmoid(x)
        return x * scale + torch.tanh(x).detach()

    f = fusedact.activation(half_frozen)
    leaf = x.clone().requires_grad_()
    with fusedact.backend("eager"):
        (got,) = torch.autograd.grad(f(leaf).sum(), [leaf])
    same(got, torch.sigmoid(x))


def test_dispatch_mode():
    f, plain = fresh()
    leaf = x.clone().requires_grad_()
    a = torch.tensor(0.5, requires_grad=True)
    with fusedact.backend("eager"), Watching() as watching:
        f(leaf, a).sum().backward()
    assert [n for n in watching.seen if n.startswith("fusedact")] == ["fusedact::own", "fusedact::own_backward"]
    want = torch.autograd.grad(plain(leaf, a).sum(), [leaf, a])
    same(leaf.grad, want[0])
    same(a.grad, want[1])


def test_selective_checkpointing():
    from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

    f, plain = fresh()
    seen = []

    def policy(ctx, op, *args, **kwargs):
        seen.append((str(op), ctx.is_recompute))
        return CheckpointPolicy.MUST_SAVE if op is torch.ops.fusedact.own.default else CheckpointPolicy.PREFER_RECOMPUTE

    leaf = x.clone().requires_grad_()
    with fusedact.backend("eager"):
        y = checkpoint(
            lambda t: f(t * 2) * 3,
            leaf,
            use_reentrant=False,
            context_fn=lambda: create_selective_checkpoint_contexts(policy),
        )
        (got,) = torch.autograd.grad(y.sum(), [leaf])
    (want,) = torch.autograd.grad((plain(leaf * 2) * 3).sum(), [leaf])
    same(got, want)
    assert ("fusedact.own.default", False) in seen


@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("what", ["function", "module"])
def test_compile_as_the_first_call(fullgraph, what):
    torch._dynamo.reset()
    f, plain = fresh()
    call = f if what == "function" else f.module(a=0.5, learnable=True)
    compiled = torch.compile(call, backend="aot_eager", fullgraph=fullgraph)
    leaf = x.clone().requires_grad_()
    y = compiled(leaf)
    same(y, plain(x))
    (got,) = torch.autograd.grad(y.sum(), [leaf])
    (want,) = torch.autograd.grad(plain(leaf).sum(), [leaf])
    same(got, want)


def test_export():
    f, plain = fresh()
    program = torch.export.export(f.module(a=0.3), (x,))
    same(program.module()(x), plain(x, 0.3))


def test_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode

    f, plain = fresh()
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(x)
        y = f(fake)
        assert y.shape == x.shape and y.dtype == x.dtype and type(y) is type(fake)
    same(f(x), plain(x))


def test_meta():
    f, plain = fresh()
    leaf = torch.empty(2, 3, device="meta", requires_grad=True)
    y = f(leaf)
    assert y.is_meta and y.shape == (2, 3)
    y.sum().backward()
    assert leaf.grad.shape == (2, 3)
    same(f(x), plain(x))


def test_default_dtype_is_float64():
    f, plain = fresh()
    before = f.spec and fresh()[0].source
    torch.set_default_dtype(torch.float64)
    try:
        f, plain = fresh()
        with fusedact.backend("eager"):
            same(f(x), plain(x))
            assert f(x).dtype == torch.float32
            torch.testing.assert_close(f(x.double()), plain(x.double()))
        assert f.source == before
    finally:
        torch.set_default_dtype(torch.float32)


def test_default_device_is_meta():
    f, plain = fresh()
    torch.set_default_device("meta")
    try:
        with fusedact.backend("eager"):
            got = f(x)
        assert got.device.type == "cpu"
        f.source  # noqa: B018
    finally:
        torch.set_default_device(None)
    same(got, plain(x))


@pytest.mark.parametrize("mode", ["real", "fake"])
def test_make_fx(mode):
    from torch.fx.experimental.proxy_tensor import make_fx

    f, plain = fresh()
    graph = make_fx(lambda x: f(x), tracing_mode=mode)(x)
    same(graph(x + 1), plain(x + 1))


def test_deterministic_and_anomaly_mode():
    f, plain = fresh()
    leaf = x.clone().requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        with torch.autograd.set_detect_anomaly(True), fusedact.backend("eager"):
            f(leaf).sum().backward()
            assert torch.is_anomaly_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    (want,) = torch.autograd.grad(plain(leaf).sum(), [leaf])
    same(leaf.grad, want)


def test_random_state_is_left_alone():
    f, _ = fresh()
    before = torch.get_rng_state()
    f(x)
    f.source  # noqa: B018
    assert torch.equal(torch.get_rng_state(), before)


def test_inside_another_activation():
    inner, plain = fresh()

    @fusedact.activation
    def outer(x, a=1.0):
        return inner(x, a) + fusedact.functional.elu(x) * own_module.gate(x)

    with fusedact.backend("eager"):
        same(outer(x, 0.3), plain(x, 0.3) + nn.functional.elu(x) * own_module.plain(x))
    assert "elu" not in outer.source


# ----- the operator


@pytest.mark.parametrize("a", [0.5, torch.tensor(0.5), torch.full((4,), 0.5)], ids=["number", "one", "channels"])
def test_opcheck(a):
    f, _ = fresh()
    f(x)
    p = [torch.as_tensor(a, dtype=torch.float64 if isinstance(a, float) else None)]
    channel = 1 if p[0].dim() else None
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static", "test_aot_dispatch_dynamic")
    key = f.spec.key
    torch.library.opcheck(torch.ops.fusedact.own, (x, p, key), {"channel": channel}, test_utils=tests)
    torch.library.opcheck(
        torch.ops.fusedact.own_backward, (x, x, p, key, [True, True]), {"channel": channel}, test_utils=tests
    )


def test_operator_of_an_unknown_activation():
    with pytest.raises(RuntimeError, match="which this process has not defined"):
        torch.ops.fusedact.own(x, [], "nowhere:unknown")


# ----- modules


def test_pickled():
    assert pickle.loads(pickle.dumps(own_module.gate)) is own_module.gate
    assert copy.copy(own_module.gate) is own_module.gate is copy.deepcopy(own_module.gate)
    module = own_module.gate.module(a=2.0, learnable="b")
    again = pickle.loads(pickle.dumps(module))
    assert type(again) is type(module) and repr(again) == repr(module) == "Gate(a=2.0, b=learnable)"
    assert torch.equal(again(x), module(x))


def test_class_is_pickled():
    cls = own_module.gate.module
    assert pickle.loads(pickle.dumps(cls)) is cls is copy.deepcopy(cls)


def test_pickled_in_a_model(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), own_module.gate.module(learnable=True, num_parameters=4))
    torch.save(model, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(again(x), model(x))
    torch.save(model.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert list(state) == ["0.weight", "0.bias", "1.a", "1.b"]
    again[1].reset_parameters()
    assert again.load_state_dict(state).missing_keys == []


def test_deepcopy():
    module = own_module.gate.module(learnable=True)
    again = copy.deepcopy(module)
    with torch.no_grad():
        again.a.add_(1)
    assert module.a.item() == 1.0 and again.a.item() == 2.0
    same(again(x), own_module.plain(x, 2.0))


def test_local_activation_is_copied_but_not_pickled():
    """As functions are."""
    f, plain = fresh()
    module = f.module(a=0.3, learnable=True)
    same(copy.deepcopy(module)(x), plain(x, 0.3))
    assert copy.deepcopy(f) is f
    with pytest.raises((pickle.PicklingError, AttributeError), match="bump"):
        pickle.dumps(module)


def test_module_learns():
    module = own_module.gate.module(learnable=True)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = module(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True) and not math.isclose(losses[0], losses[-1])


# ----- explain


@pytest.mark.parametrize("made", [False, True], ids=["before", "after"])
def test_explain(made):
    f, _ = fresh()
    if made:
        f(x)
    small, large = torch.empty(8), torch.empty(2**20)
    for own in (f, f.module(), f.module(learnable=True)):
        assert fusedact.explain(own, small).kind == "formula"
        assert fusedact.explain(own, large).kind == "pieces"
        with fusedact.backend("eager"):
            assert fusedact.explain(own, small).kind == "pieces"
    assert fusedact.explain(f, small, a=torch.ones(())).kind == "formula"
    with pytest.raises(TypeError, match="bump has no parameter b; its parameters are a"):
        fusedact.explain(f, small, b=1.0)
