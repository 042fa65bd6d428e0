"""What is no activation, and the whole message that it gets; and `fallback="eager"`, which accepts all of it."""

from __future__ import annotations

import inspect
import linecache
import math
import textwrap

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fusedact

OUTSIDE = {
    "torch": torch,
    "F": F,
    "math": math,
    "np": np,
    "large": torch.ones(3),
    "learned": nn.Parameter(torch.tensor(2.0)),
    "linear": nn.Linear(3, 3),
}
OR = "; or pass fallback='eager', which stays in PyTorch"
CONTROL = (
    "this line turns a tensor into a Python number or condition; use torch.where instead of if, torch.maximum instead "
    "of max, and torch's operators instead of Python's math"
)
ELEMENTWISE = "is not elementwise, and an activation maps each element by itself; do that outside"
RANDOM = "draws random numbers, and an activation always gives the same; do that outside"
INPLACE = "changes x or a parameter in place; use the operator that makes a new tensor"
NUMPY = "this line leaves PyTorch for NumPy; use torch's operators"
UNKNOWN = "is not among the elementwise operators that kernels have, which docs/operators.md lists; write it in those"
DERIVATIVE = "has no derivative in PyTorch; use it under torch.no_grad(), or another operator"
NUMBERS = (
    "must be Number, not Tensor; the parameters are tensors inside the function: write the formula in operators that "
    "take tensors, such as torch.where"
)


def float32(dtype):
    return f"computes in {dtype}, and kernels in float32; leave the dtype as it is"


# By what is wrong: the function's lines, of which the one that ends in # is to blame; and why.
CASES = {
    "if": (["if x.max() > 0:  #", "    return x", "return -x"], f"torch.Tensor.max {ELEMENTWISE}"),
    "if of a parameter": (["if a > 0:  #", "    return x", "return -x"], CONTROL),
    "while": (["while (x > 1).any():  #", "    x = x / 2", "return x"], f"torch.Tensor.any {ELEMENTWISE}"),
    "bool": (["return x if bool(a) else -x  #"], CONTROL),
    "float": (["return x * float(a)  #"], CONTROL),
    "int": (["return x * int(a)  #"], CONTROL),
    "item": (["y = x * a.item()  #", "return y"], CONTROL),
    "math of x": (["return math.tanh(x)  #"], CONTROL),
    "math of a parameter": (["return x * math.exp(a)  #"], CONTROL),
    "max": (["return max(x, 0)  #"], CONTROL),
    "float of an element": (["return x * float(x[0, 0])  #"], f"indexing {ELEMENTWISE}"),
    "numpy": (["return torch.from_numpy(np.tanh(x.numpy()))  #"], NUMPY),
    "function of numpy": (["return np.tanh(x)  #"], NUMPY),
    "array from outside": (["return x * np.ones(3, dtype=np.float32)  #"], NUMPY),
    "sum": (["total = torch.sum(x)  #", "return x / total"], f"torch.sum {ELEMENTWISE}"),
    "mean of a dimension": (["return x - x.mean(-1, keepdim=True)  #"], f"torch.Tensor.mean {ELEMENTWISE}"),
    "maximum of all": (["return x - torch.max(x)  #"], f"torch.max {ELEMENTWISE}"),
    "any": (["return x * torch.any(x > 0)  #"], f"torch.any {ELEMENTWISE}"),
    "layer norm": (["return F.layer_norm(x, x.shape[-1:])  #"], f"torch.nn.functional.layer_norm {ELEMENTWISE}"),
    "linear": (["return linear(x)  #"], f"torch.nn.functional.linear {ELEMENTWISE}"),
    "softmax": (["return torch.softmax(x, -1)  #"], f"torch.softmax {UNKNOWN}"),
    "cumulative sum": (["return x.cumsum(0)  #"], f"torch.Tensor.cumsum {UNKNOWN}"),
    "sort": (["return x.sort().values  #"], f"torch.Tensor.sort {UNKNOWN}"),
    "reshape": (["return x.reshape(-1)  #"], f"torch.Tensor.reshape {ELEMENTWISE}"),
    "view and back": (["return torch.sin(x).view(-1).view(x.shape)  #"], f"torch.Tensor.view {ELEMENTWISE}"),
    "transpose": (["return x.T  #"], f"torch.Tensor.T {ELEMENTWISE}"),
    "product of matrices": (["return x @ large  #"], f"torch.Tensor.matmul {ELEMENTWISE}"),
    "slice": (["return x[:1]  #"], f"indexing {ELEMENTWISE}"),
    "concatenation": (["return torch.cat([x, -x])  #"], f"torch.cat {ELEMENTWISE}"),
    "chunks": (["one, two = x.chunk(2, -1)  #", "return one * two"], f"torch.Tensor.chunk {ELEMENTWISE}"),
    "flip": (["return x.flip(0)  #"], f"torch.Tensor.flip {UNKNOWN}"),
    "dropout": (["return F.dropout(x)  #"], f"torch.nn.functional.dropout {RANDOM}"),
    "noise": (["return x + torch.randn_like(x)  #"], f"torch.randn_like {RANDOM}"),
    "rrelu": (["return F.rrelu(x, training=True)  #"], f"torch.nn.functional.rrelu {RANDOM}"),
    "in place on x": (["x.mul_(2)  #", "return x"], f"torch.Tensor.mul_ {INPLACE}"),
    "in place by an argument": (["return F.relu(x, inplace=True)  #"], f"torch.nn.functional.relu {INPLACE}"),
    "in place on a parameter": (["a += 1  #", "return x * a"], f"torch.Tensor.add_ {INPLACE}"),
    "assignment": (
        ["x[x > 0] = 0  #", "return x"],
        "an assignment to elements changes elements in place; use torch.where",
    ),
    "assignment to a result": (
        ["y = torch.sin(x)", "y[y > 0] = 0.0  #", "return y"],
        "an assignment to elements changes elements in place; use torch.where",
    ),
    "half": (["return x.half().float()  #"], f"torch.Tensor.half {float32('float16')}"),
    "double": (["return torch.sin(x.double()).float()  #"], f"torch.Tensor.double {float32('float64')}"),
    "integers": (["return (x.to(torch.int32) * 2).float()  #"], f"torch.Tensor.to {float32('int32')}"),
    "large tensor from outside": (
        ["return x * large  #"],
        "a tensor of shape (3,) is made of neither x nor a parameter; if it is one number, or one per channel, make it "
        "a parameter",
    ),
    "table": (
        ["return torch.bucketize(x, torch.tensor([0.0, 1.0])).float()  #"],
        "a tensor of shape (2,) is made of neither x nor a parameter; if it is one number, or one per channel, make it "
        "a parameter",
    ),
    "learned tensor from outside": (
        ["return x * learned  #"],
        "a tensor that requires a gradient is neither x nor a parameter; make it a parameter",
    ),
    "lgamma": (["y = torch.lgamma(x)  #", "return y * a"], f"torch.lgamma {UNKNOWN}"),
    "angle": (["return torch.angle(x)  #"], f"torch.angle {UNKNOWN}"),
    "special": (["return torch.special.bessel_j0(x)  #"], f"torch.special.bessel_j0 {UNKNOWN}"),
    "heaviside": (["return torch.heaviside(x, torch.tensor(0.5))  #"], f"torch.heaviside {UNKNOWN}"),
    "floor division": (["y = x // 2  #", "return x * y"], f"the operator // {DERIVATIVE}"),
    "a number in PyTorch": (
        ["return F.elu(x, alpha=a)  #"],
        f"this line raised TypeError: elu(): argument 'alpha' (position 2) {NUMBERS}",
    ),
    "another error": (
        ["return x * undefined  #"],
        "this line raised NameError: name 'undefined' is not defined",
    ),
    "no such method": (
        ["return x.foo()  #"],
        "this line raised AttributeError: 'Tensor' object has no attribute 'foo'",
    ),
}

# Those without a line: what is wrong is the function.
WHOLE = {
    "shape": (
        ["return x * x.shape[0]"],
        f"f depends on the shape of x, and an activation maps each element by itself{OR}",
    ),
    "dimensions": (
        ["return x if x.dim() == 2 else -x"],
        f"f depends on the shape of x, and an activation maps each element by itself{OR}",
    ),
    "tuple": (["return x, x"], "f must return a tensor, got tuple"),
    "nothing": (["y = torch.sin(x)"], "f must return a tensor, got NoneType"),
    "number": (["return 1.0"], "f must return a tensor, got float"),
    "condition": (["return x > 0"], "f must return a tensor of x's dtype, float32, got bool"),
    "one number": (["return torch.tensor(1.0)"], "f must return a tensor of x's shape, got () for (2, 3)"),
}
LINES = {name: lines for name, (lines, _) in (CASES | WHOLE).items()}

x = torch.linspace(-1.5, 2, 6).reshape(2, 3)


def defined(lines, signature="x, a=2.0"):
    """The function f, as it stands in the file user.py."""
    text = f"def f({signature}):\n" + textwrap.indent("\n".join(lines), "    ") + "\n"
    linecache.cache["user.py"] = (len(text), None, text.splitlines(keepends=True), "user.py")
    namespace = dict(OUTSIDE)
    exec(compile(text, "user.py", "exec"), namespace)
    return namespace["f"]


def message(error, call):
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


# ----- what the function does


@pytest.mark.parametrize("name", CASES)
def test_refused(name):
    lines, why = CASES[name]
    number, line = next((i, line) for i, line in enumerate(lines, start=2) if line.endswith("#"))
    own = fusedact.activation(defined(lines))
    want = f"fusedact.activation: f (user.py, line {number}: {line.strip()}): {why}{OR}"
    assert message(ValueError, lambda: own(x)) == want
    # Again, and by every way to it.
    assert message(ValueError, lambda: own(x, 3.0)) == want
    assert message(ValueError, lambda: own.source) == want
    assert message(ValueError, lambda: own.module()(x)) == want


@pytest.mark.parametrize("name", WHOLE)
def test_refused_as_a_whole(name):
    lines, why = WHOLE[name]
    assert message(ValueError, lambda: fusedact.activation(defined(lines))(x)) == f"fusedact.activation: {why}"


def test_derivative():
    class Centered(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g - g.mean()

    @fusedact.activation
    def centered(x):
        return Centered.apply(x)

    line = inspect.getsourcelines(Centered)[1] + 7
    assert message(ValueError, lambda: centered(x)) == (
        f"fusedact.activation: the derivative of centered (test_own_errors.py, line {line}: return g - g.mean()): "
        f"torch.mean {ELEMENTWISE}{OR}"
    )


def test_line_in_a_helper():
    """The innermost line outside PyTorch is shown, wherever it stands."""

    def helper(t):
        return t / t.norm()

    own = fusedact.activation(lambda x: helper(x) * 2)
    line = inspect.getsourcelines(helper)[1] + 1
    assert message(ValueError, lambda: own(x)).startswith(
        f"fusedact.activation: <lambda> (test_own_errors.py, line {line}: return t / t.norm()): torch.Tensor.norm "
    )


def test_error_of_the_user_is_the_cause():
    own = fusedact.activation(defined(["return x * undefined"]))
    with pytest.raises(ValueError, match="undefined") as caught:
        own(x)
    assert isinstance(caught.value.__cause__, NameError)


# ----- the function's signature

SIGNATURES = {
    "no argument": (lambda: 1, "<lambda> must take the input as its first argument, without a default"),
    "default of x": (lambda x=1.0: x, "<lambda> must take the input as its first argument, without a default"),
    "keyword x": (lambda *, x: x, "<lambda> must take the input as its first argument, without a default"),
    "only many": (lambda *args: args, "<lambda> must take the input as its first argument, without a default"),
    "many": (lambda x, *rest: x, "<lambda> must take each parameter by position, and rest is not"),
    "keyword-only": (lambda x, *, a=1.0: x, "<lambda> must take each parameter by position, and a is not"),
    "keywords": (lambda x, **rest: x, "<lambda> must take each parameter by position, and rest is not"),
    "no default": (
        lambda x, a: x,
        "parameter a of <lambda> must have a number as default, what modules begin with",
    ),
    "default None": (lambda x, a=None: x, "the default of <lambda>'s parameter a must be a number, got NoneType"),
    "default tensor": (
        lambda x, a=torch.ones(()): x,  # noqa: B008
        "the default of <lambda>'s parameter a must be a number, got Tensor",
    ),
    "default text": (lambda x, a="1": x, "the default of <lambda>'s parameter a must be a number, got str"),
    "default truth": (lambda x, a=True: x, "the default of <lambda>'s parameter a must be a number, got bool"),
    **{
        reserved: (
            eval(f"lambda x, {reserved}=1.0: x"),
            f"<lambda> has a parameter {reserved}, which every activation or its module has",
        )
        for reserved in (
            "inplace",
            "channel_dim",
            "self",
            "learnable",
            "num_parameters",
            "bounds",
            "device",
            "dtype",
            "forward",
        )
    },
    "class": (nn.SiLU, "expected a function, got the class SiLU"),
    "module": (nn.SiLU(), "SiLU must take the input as its first argument, without a default"),
    "nothing to call": (3.0, "expected a function, got float"),
    "activation": (
        fusedact.activation(lambda x: x),
        "expected a function, got fusedact.custom.CustomActivation",
    ),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    function, why = SIGNATURES[name]
    got = message(TypeError, lambda: fusedact.activation(function))
    assert got == f"fusedact.activation: {why}"


def test_builtin_without_signature():
    assert message(TypeError, lambda: fusedact.activation(torch.sin)) == (
        "fusedact.activation: sin has no signature; wrap it in a function of your own"
    )


def test_fallback_of_a_wrong_value():
    for wrong in (True, "triton", 1):
        assert message(ValueError, lambda wrong=wrong: fusedact.activation(fallback=wrong)) == (
            f"fusedact.activation: fallback must be None or 'eager', got {wrong!r}"
        )


# ----- calls


@fusedact.activation
def snake(x, a=1.0):
    return x + torch.sin(a * x) ** 2 / a


NUMBER = "a number or a tensor"
FLOATS = "float16, bfloat16, float32 or float64"
CALLS = {
    "no tensor": (lambda: snake([1.0]), TypeError, "snake: x must be a torch.Tensor, got list"),
    "integers": (lambda: snake(torch.arange(3)), TypeError, f"snake: x must have dtype {FLOATS}, got int64"),
    "text": (lambda: snake(x, "1"), TypeError, f"snake: a must be {NUMBER}, got str"),
    "None": (lambda: snake(x, None), TypeError, f"snake: a must be {NUMBER}, got NoneType"),
    "truth": (lambda: snake(x, True), TypeError, f"snake: a must be {NUMBER}, got bool"),
    "integer tensor": (lambda: snake(x, torch.tensor(1)), TypeError, f"snake: a must have dtype {FLOATS}, got int64"),
    "device": (
        lambda: snake(x, torch.ones((), device="meta")),
        ValueError,
        "snake: a must be on the device of x, cpu, got a tensor on meta",
    ),
    "channels": (
        lambda: snake(x, torch.ones(2)),
        ValueError,
        "snake: a must be a number or a tensor of shape (), (1,) or (C,) with C the size of x in dimension "
        "channel_dim=1; got shape (2,), where x has (2, 3)",
    ),
    "no such dimension": (
        lambda: snake(x, torch.ones(3), channel_dim=2),
        ValueError,
        "snake: a has 3 entries, one per channel, but x of shape (2, 3) has no dimension channel_dim=2",
    ),
    "two dimensions": (
        lambda: snake(x, torch.ones(2, 3)),
        ValueError,
        "snake: a must be a number or a tensor of shape (), (1,) or (C,), got shape (2, 3)",
    ),
    "channel_dim": (lambda: snake(x, channel_dim="1"), TypeError, "snake: channel_dim must be an int, got str"),
    "unknown parameter": (lambda: snake(x, b=1.0), TypeError, "snake() got an unexpected keyword argument 'b'"),
    "no input": (lambda: snake(), TypeError, "snake() missing 1 required positional argument: 'x'"),
    "module's parameter": (lambda: snake.module(a="1"), TypeError, "Snake: a must be a number, got str"),
    "module's tensor": (
        lambda: snake.module(a=torch.ones(())),
        TypeError,
        "Snake: a must be a number (learnable=True makes it a parameter), got a tensor",
    ),
    "module's argument": (lambda: snake.module(b=1.0), TypeError, "Snake: got an unexpected keyword argument 'b'"),
    "module's learnable": (
        lambda: snake.module(learnable="b"),
        ValueError,
        "Snake: learnable names 'b'; the parameters that learn are a",
    ),
    "module's count": (
        lambda: snake.module(num_parameters=2),
        ValueError,
        "Snake: num_parameters must be 1, since no parameter is learnable, got 2",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_call(name):
    call, error, want = CALLS[name]
    assert message(error, call) == want


def test_forced_kernel_that_cannot_run():
    with fusedact.backend("triton"):
        got = message(RuntimeError, lambda: snake(x.double()))
    assert got == (
        "snake: the triton backend is forced, but no kernel can run: kernels compute in float32, and the input is "
        "float64; use fusedact.backend('auto')"
    )


# ----- fallback

# PyTorch itself refuses these.
INVALID = [
    *("another error", "no such method", "in place on x", "in place by an argument", "function of numpy", "numpy"),
    *("array from outside", "assignment", "in place on a parameter"),
]


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("name", [n for n in LINES if n not in INVALID])
def test_fallback(name, backend):
    """Plain PyTorch's result and gradients."""
    plain = defined(LINES[name])
    own = fusedact.activation(plain, fallback="eager")
    results = []
    for function in (own, plain):
        torch.manual_seed(3)
        leaf, a = x.clone().requires_grad_(), 2.0
        with fusedact.backend(backend):
            try:
                y = function(leaf, a)
                parts = [y] if isinstance(y, torch.Tensor) else []
                grads = [torch.autograd.grad(p.sum(), [leaf]) for p in parts if p.requires_grad]
                results.append((type(y), [p.detach() for p in parts], grads))
            except (AttributeError, TypeError, ValueError, RuntimeError) as error:
                # Where plain PyTorch fails, so does it.
                results.append((type(error), str(error)))
    assert str(results[0]) == str(results[1])
    assert "user.py" not in repr(own)


@pytest.mark.parametrize("name", ["sum", "if", "a number in PyTorch", "dropout"])
def test_fallback_in_a_module(name):
    plain = defined(LINES[name])
    module = fusedact.activation(plain, fallback="eager").module(a=0.7)
    torch.manual_seed(3)
    got = module(x)
    torch.manual_seed(3)
    assert torch.equal(got, plain(x, 0.7))


def test_fallback_learns():
    plain = defined(["return x * a / x.norm()"])
    module = fusedact.activation(plain, fallback="eager").module(a=0.7, learnable=True)
    module(x).sum().backward()
    assert torch.allclose(module.a.grad, (x / x.norm()).sum())


@pytest.mark.parametrize("called", [False, True])
def test_fallback_compiled(called):
    torch._dynamo.reset()
    plain = defined(["return F.elu(x, alpha=a) - x.mean()"])
    own = fusedact.activation(plain, fallback="eager")
    if called:
        own(x)
    torch.testing.assert_close(torch.compile(own, backend="aot_eager", fullgraph=True)(x), plain(x))


def test_fallback_is_not_needed():
    """What is an activation gets its kernels, whatever `fallback` says."""
    own = fusedact.activation(fallback="eager")(defined(["return torch.sigmoid(a * x)"]))
    assert "sigmoid" in own.source
    assert torch.allclose(own(x, 0.3), torch.sigmoid(0.3 * x))


def test_source_of_a_fallback():
    own = fusedact.activation(defined(["return x / x.sum()"]), fallback="eager")
    own(x)
    assert message(ValueError, lambda: own.source) == (
        "fusedact.activation: f runs as plain PyTorch: fusedact.activation: f (user.py, line 2: return x / x.sum()): "
        f"torch.Tensor.sum {ELEMENTWISE}{OR}"
    )


def test_inplace_of_a_fallback():
    own = fusedact.activation(defined(["return x / x.sum()"]), fallback="eager")
    assert message(ValueError, lambda: own(x, inplace=True)) == (
        "f: inplace=True is not for what runs as plain PyTorch"
    )


@pytest.mark.parametrize("parameters", ["x", "x, a=1.0"])
def test_function_modes_and_subclasses(parameters):
    """Not an error: what overrides PyTorch's functions sees the activation, and may call it."""
    own = fusedact.activation(defined(["return torch.sin(x)"], parameters))
    with torch.device("cpu"):
        assert torch.equal(own(x), torch.sin(x))

    class Kind(torch.Tensor):
        pass

    assert type(own(x.as_subclass(Kind))) is Kind
