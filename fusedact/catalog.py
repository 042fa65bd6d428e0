"""The built-in activations, one record each: the only list of them anywhere."""

from __future__ import annotations

from functools import partial
from math import inf

import torch
from torch import Tensor
from torch.nn import functional as F

from . import eager, spelled_forms
from .cpu import cpu_curves, cpu_gates
from .engine import engine
from .piecewise import tables
from .registry import ActivationSpec, Argument, OptionSpec, ParameterSpec, register
from .rowwise import rows

# Of all gates, where PyTorch has one of its own.
GATED = (
    "At -inf the value and the gradient are 0, at +inf they are +inf and 1; PyTorch's own operator, which serves the "
    "CPU, has NaN there."
)


def add(spec: ActivationSpec) -> None:
    """Register a record, with what the engine writes of its definition where nothing is written by hand."""
    register(engine.generated(spec) if spec.kind == "elementwise" else spec)


add(
    ActivationSpec(
        name="relu_sigmoid",
        module="ReLUSigmoid",
        summary="ReLU past a threshold, weighted by the sigmoid of the input.",
        formula="relu(x - threshold) * sigmoid(x)",
        limits=(
            "The gradient is 0 at and below the threshold. At -inf the value and the gradient are 0, at +inf they are "
            "+inf and 1. Past the threshold the function is strictly increasing."
        ),
        example=(
            ">>> FF.relu_sigmoid(torch.tensor([-1.0, 0.5, 2.0]), threshold=0.5)\ntensor([0.0000, 0.0000, 1.3212])"
        ),
        reference=(
            "ReLU times the logistic sigmoid, shifted by a threshold; for threshold=0 and x > 0 it is SiLU "
            "(Elfwing et al., 2018, arXiv:1702.03118)."
        ),
        parameters=(ParameterSpec("threshold", 0.0, "where the function leaves zero"),),
        eager=eager.relu_sigmoid,
        lean_forward=cpu_gates.relu_sigmoid_lean,
        lean_backward=cpu_gates.relu_sigmoid_backward_lean,
        lean_halves=lambda threshold: threshold == 0.0,
        device="relu_sigmoid",
        spelled=(spelled_forms.relu_sigmoid, spelled_forms.relu_sigmoid_gradients),
    )
)

add(
    ActivationSpec(
        name="elu",
        module="ELU",
        summary="Exponential linear unit.",
        formula="x if x > 0 else alpha * (exp(x) - 1)",
        limits="At 0 the gradient is alpha. At -inf the value is -alpha and the gradient 0.",
        example=">>> FF.elu(torch.tensor([-1.0, 0.0, 2.0]))\ntensor([-0.6321,  0.0000,  2.0000])",
        reference="Clevert et al., 2015, arXiv:1511.07289.",
        parameters=(ParameterSpec("alpha", 1.0, "the negative of the limit at -inf"),),
        eager=eager.elu,
        lean_backward=cpu_curves.elu_backward_lean,
        twin="torch.nn.functional.elu",
        aten=F.elu,
        aten_inplace=F.elu_,
        device="elu",
    )
)

add(
    ActivationSpec(
        name="selu",
        module="SELU",
        summary="Scaled exponential linear unit, which keeps activations near zero mean and unit variance.",
        formula=(
            "scale * (x if x > 0 else alpha * (exp(x) - 1)), scale = 1.0507009873554805, alpha = 1.6732632423543772"
        ),
        limits=(
            "At 0 the gradient is scale * alpha = 1.7580993408473766. At -inf the value is -scale * alpha and the "
            "gradient 0. Initialise weights LeCun-normal: variance 1 / fan_in."
        ),
        example=">>> FF.selu(torch.tensor([-1.0, 0.0, 2.0]))\ntensor([-1.1113,  0.0000,  2.1014])",
        reference="Klambauer et al., 2017, arXiv:1706.02515.",
        eager=F.selu,
        twin="torch.nn.functional.selu",
        aten=F.selu,
        aten_inplace=F.selu_,
    )
)

add(
    ActivationSpec(
        name="prelu",
        module="PReLU",
        summary="Leaky ReLU whose slope is learned.",
        formula="x if x > 0 else weight * x",
        limits="At 0 the gradient is the weight. For weight=0 a value of -inf gives NaN, as in torch.",
        example=">>> FF.prelu(torch.tensor([-2.0, 0.0, 3.0]), 0.25)\ntensor([-0.5000,  0.0000,  3.0000])",
        reference="He et al., 2015, arXiv:1502.01852.",
        parameters=(ParameterSpec("weight", 0.25, "the slope below 0", required=True),),
        eager=eager.leaky_relu,
        lean_forward=cpu_curves.prelu_lean,
        lean_backward=cpu_curves.prelu_backward_lean,
        twin="torch.nn.functional.prelu",
        aten=F.leaky_relu,
        aten_inplace=F.leaky_relu_,
        aten_tensors=eager.prelu_twin,
        always_learned=True,
        arguments=(Argument("init", 0.25, "what it begins with"),),
        by_position=("num_parameters", "init", "device", "dtype"),
        autocast=True,
    )
)

add(
    ActivationSpec(
        name="swish",
        module="Swish",
        summary="The input weighted by the sigmoid of its multiple.",
        formula="x * sigmoid(beta * x)",
        limits=(
            "For beta > 0 the value and the gradient at -inf are 0, at +inf they are +inf and 1; for beta < 0 the "
            "other way round. beta=1 is SiLU, beta=1.702 an approximation of GELU, beta=0 is x / 2."
        ),
        example=">>> FF.swish(torch.tensor([-1.0, 0.0, 2.0]), beta=1.5)\ntensor([-0.1824,  0.0000,  1.9051])",
        reference="Ramachandran et al., 2017, arXiv:1710.05941.",
        parameters=(ParameterSpec("beta", 1.0, "how sharply the sigmoid turns"),),
        eager=eager.swish,
        lean_forward=cpu_gates.swish_lean,
        lean_backward=cpu_gates.swish_backward_lean,
        device="swish",
        spelled=(spelled_forms.swish, spelled_forms.swish_gradients),
    )
)

add(
    ActivationSpec(
        name="relu",
        module="ReLU",
        summary="Rectified linear unit.",
        formula="max(x, 0)",
        limits="At 0 the gradient is 0.",
        example=">>> FF.relu(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([0.0000, 0.5000, 2.0000])",
        reference="Nair, Hinton, 2010.",
        eager=torch.relu,
        twin="torch.nn.functional.relu",
        aten=torch.relu,
        aten_inplace=torch.relu_,
    )
)

add(
    ActivationSpec(
        name="relu6",
        module="ReLU6",
        summary="ReLU that ends at 6.",
        formula="min(max(x, 0), 6)",
        limits="At 0 and 6 the gradient is 0.",
        example=">>> FF.relu6(torch.tensor([-1.0, 0.5, 7.0]))\ntensor([0.0000, 0.5000, 6.0000])",
        reference="Krizhevsky, 2010.",
        eager=F.relu6,
        twin="torch.nn.functional.relu6",
        aten=F.relu6,
        aten_inplace=partial(F.relu6, inplace=True),
    )
)

add(
    ActivationSpec(
        name="leaky_relu",
        module="LeakyReLU",
        summary="ReLU with a small slope below 0.",
        formula="x if x > 0 else negative_slope * x",
        limits="At 0 the gradient is the slope. Keras has another default slope: 0.2, and 0.3 for its layer.",
        example=">>> FF.leaky_relu(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-0.0100,  0.5000,  2.0000])",
        reference="Maas, Hannun, Ng, 2013.",
        parameters=(ParameterSpec("negative_slope", 0.01, "the slope below 0"),),
        eager=eager.leaky_relu,
        lean_forward=cpu_curves.prelu_lean,
        lean_backward=cpu_curves.prelu_backward_lean,
        twin="torch.nn.functional.leaky_relu",
        aten=F.leaky_relu,
        aten_inplace=F.leaky_relu_,
    )
)

add(
    ActivationSpec(
        name="celu",
        module="CELU",
        summary="ELU whose derivative is continuous for every alpha.",
        formula="x if x > 0 else alpha * (exp(x / alpha) - 1)",
        limits="At 0 the gradient is 1. At -inf the value is -alpha and the gradient 0.",
        example=">>> FF.celu(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-0.6321,  0.5000,  2.0000])",
        reference="Barron, 2017, arXiv:1704.07483.",
        parameters=(ParameterSpec("alpha", 1.0, "the negative of the limit at -inf; not 0"),),
        refuses=lambda alpha: "alpha must not be 0" if alpha == 0.0 else "",
        eager=eager.celu,
        twin="torch.nn.functional.celu",
        aten=F.celu,
        aten_inplace=F.celu_,
    )
)

add(
    ActivationSpec(
        name="gelu",
        module="GELU",
        summary="Gaussian error linear unit.",
        formula="x * (1 + erf(x / sqrt(2))) / 2",
        limits=GATED,
        example=">>> FF.gelu(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-0.1587,  0.3457,  1.9545])",
        reference="Hendrycks, Gimpel, 2016, arXiv:1606.08415.",
        options=(OptionSpec("approximate", "none", {"none": "gelu", "tanh": "gelu_tanh"}, "how erf is computed"),),
        aliases=("gelu_python",),
        eager=F.gelu,
        device="gelu",
        spelled=(spelled_forms.gelu, spelled_forms.gelu_gradients),
        twin="torch.nn.functional.gelu",
        aten=F.gelu,
    )
)

add(
    ActivationSpec(
        name="gelu_tanh",
        module="GELUTanh",
        summary="GELU with tanh in place of the error function.",
        formula="x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2",
        limits=(
            "At -inf the value and the gradient are 0, at +inf they are +inf and 1; PyTorch's own operator has NaN "
            "there, and in its gradient from 1.9e19 on."
        ),
        example=">>> FF.gelu_tanh(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-0.1588,  0.3457,  1.9546])",
        reference="Hendrycks, Gimpel, 2016, arXiv:1606.08415.",
        aliases=("gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh"),
        eager=eager.gelu_tanh,
        device="gelu_tanh",
        twin="torch.nn.functional.gelu",
        aten=partial(F.gelu, approximate="tanh"),
        compiled="formula",
    )
)

add(
    ActivationSpec(
        name="silu",
        module="SiLU",
        summary="The input weighted by its sigmoid.",
        formula="x * sigmoid(x)",
        limits=GATED,
        example=">>> FF.silu(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-0.2689,  0.3112,  1.7616])",
        reference="Elfwing, Uchibe, Doya, 2018, arXiv:1702.03118.",
        eager=F.silu,
        device="silu",
        twin="torch.nn.functional.silu",
        aten=F.silu,
        aten_inplace=partial(F.silu, inplace=True),
    )
)

add(
    ActivationSpec(
        name="mish",
        module="Mish",
        summary="The input weighted by the tanh of its softplus.",
        formula="x * tanh(log(1 + exp(x)))",
        limits=GATED,
        example=">>> FF.mish(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-0.3034,  0.3752,  1.9440])",
        reference="Misra, 2019, arXiv:1908.08681.",
        eager=eager.mish,
        device="mish",
        lean_forward=cpu_gates.mish_lean,
        lean_backward=cpu_gates.mish_backward_lean,
        twin="torch.nn.functional.mish",
        aten=F.mish,
        pieces_from=2**16,
        # What backward computes again takes the time that forward saves.
        pieces_from_recorded=2**23,
        compiled="formula",
        aten_inplace=partial(F.mish, inplace=True),
    )
)

add(
    ActivationSpec(
        name="softplus",
        module="Softplus",
        summary="A smooth ReLU.",
        formula="log(1 + exp(beta * x)) / beta if beta * x <= threshold else x",
        limits="At -inf the value and the gradient are 0, at +inf they are +inf and 1.",
        example=">>> FF.softplus(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([0.3133, 0.9741, 2.1269])",
        reference="Dugas et al., 2001.",
        parameters=(
            ParameterSpec("beta", 1.0, "how sharply it bends; not 0"),
            ParameterSpec("threshold", 20.0, "where it becomes the identity", fixed=True),
        ),
        refuses=lambda beta, _: "beta must not be 0" if beta == 0.0 else "",
        eager=eager.softplus,
        device="softplus",
        twin="torch.nn.functional.softplus",
        aten=F.softplus,
    )
)

add(
    ActivationSpec(
        name="logsigmoid",
        module="LogSigmoid",
        summary="The logarithm of the sigmoid.",
        formula="-log(1 + exp(-x))",
        limits="At -inf the value is -inf and the gradient 1, at +inf both are 0.",
        example=">>> FF.logsigmoid(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-1.3133, -0.4741, -0.1269])",
        reference="",
        aliases=("log_sigmoid",),
        eager=F.logsigmoid,
        device="logsigmoid",
        twin="torch.nn.functional.logsigmoid",
        aten=F.logsigmoid,
    )
)

add(
    ActivationSpec(
        name="sigmoid",
        module="Sigmoid",
        summary="The logistic function.",
        formula="1 / (1 + exp(-x))",
        limits="At -inf the value is 0, at +inf 1; there the gradient is 0.",
        example=">>> FF.sigmoid(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([0.2689, 0.6225, 0.8808])",
        reference="",
        eager=torch.sigmoid,
        twin="torch.nn.functional.sigmoid",
        aten=torch.sigmoid,
        aten_inplace=torch.sigmoid_,
    )
)

add(
    ActivationSpec(
        name="tanh",
        module="Tanh",
        summary="The hyperbolic tangent.",
        formula="tanh(x)",
        limits="At the infinities the value is -1 and 1, and the gradient 0.",
        example=">>> FF.tanh(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-0.7616,  0.4621,  0.9640])",
        reference="",
        eager=torch.tanh,
        twin="torch.nn.functional.tanh",
        aten=torch.tanh,
        aten_inplace=torch.tanh_,
    )
)

add(
    ActivationSpec(
        name="hardtanh",
        module="Hardtanh",
        summary="The identity between two bounds.",
        formula="min(max(x, min_val), max_val)",
        limits="At the bounds the gradient is 0.",
        example=">>> FF.hardtanh(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-1.0000,  0.5000,  1.0000])",
        reference="",
        aliases=("hard_tanh",),
        parameters=(
            ParameterSpec("min_val", -1.0, "the lower bound"),
            ParameterSpec("max_val", 1.0, "the upper bound"),
        ),
        refuses=lambda low, high: (
            f"min_val must not be greater than max_val, got {low} and {high}" if low > high else ""
        ),
        eager=eager.hardtanh,
        twin="torch.nn.functional.hardtanh",
        aten=F.hardtanh,
        aten_inplace=F.hardtanh_,
    )
)

add(
    ActivationSpec(
        name="hardsigmoid",
        module="Hardsigmoid",
        summary="A sigmoid of three straight lines.",
        formula="min(max(x + 3, 0), 6) / 6",
        limits="At -3 and 3 the gradient is 0.",
        example=">>> FF.hardsigmoid(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([0.3333, 0.5833, 0.8333])",
        reference="Howard et al., 2019, arXiv:1905.02244.",
        aliases=("hard_sigmoid",),
        eager=F.hardsigmoid,
        twin="torch.nn.functional.hardsigmoid",
        aten=F.hardsigmoid,
        aten_inplace=partial(F.hardsigmoid, inplace=True),
    )
)

add(
    ActivationSpec(
        name="hardswish",
        module="Hardswish",
        summary="The input weighted by its hardsigmoid.",
        formula="x * min(max(x + 3, 0), 6) / 6",
        limits="At -3 the gradient is 0, at 3 it is 1. At -inf the value is 0; PyTorch's own operator has NaN there.",
        example=">>> FF.hardswish(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-0.3333,  0.2917,  1.6667])",
        reference="Howard et al., 2019, arXiv:1905.02244.",
        aliases=("hard_swish", "hard_silu"),
        eager=eager.hardswish,
        device="hardswish",
        twin="torch.nn.functional.hardswish",
        aten=F.hardswish,
        aten_inplace=partial(F.hardswish, inplace=True),
    )
)

add(
    ActivationSpec(
        name="softsign",
        module="Softsign",
        summary="A sigmoid that approaches its limits slowly.",
        formula="x / (1 + |x|)",
        limits="At the infinities the value is -1 and 1, and the gradient 0; PyTorch's own operator has NaN there.",
        example=">>> FF.softsign(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-0.5000,  0.3333,  0.6667])",
        reference="",
        eager=eager.softsign,
        device="softsign",
        lean_forward=cpu_curves.softsign_lean,
        lean_backward=cpu_curves.softsign_backward_lean,
        twin="torch.nn.functional.softsign",
        aten=F.softsign,
        composite=True,
        pieces_from=2**23,
        # PyTorch's keeps three tensors.
        pieces_from_recorded=2**20,
    )
)

add(
    ActivationSpec(
        name="tanhshrink",
        module="Tanhshrink",
        summary="What tanh takes away.",
        formula="x - tanh(x)",
        limits="At the infinities the gradient is 1.",
        example=">>> FF.tanhshrink(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-0.2384,  0.0379,  1.0360])",
        reference="",
        aliases=("tanh_shrink",),
        eager=F.tanhshrink,
        device="tanhshrink",
        twin="torch.nn.functional.tanhshrink",
        aten=F.tanhshrink,
        composite=True,
    )
)

add(
    ActivationSpec(
        name="softshrink",
        module="Softshrink",
        summary="The input drawn towards 0, and 0 near it.",
        formula="x - lambd if x > lambd else x + lambd if x < -lambd else 0",
        limits="At -lambd and lambd the gradient is 0.",
        example=">>> FF.softshrink(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-0.5000,  0.0000,  1.5000])",
        reference="",
        aliases=("soft_shrink",),
        parameters=(ParameterSpec("lambd", 0.5, "how far; finite and not negative"),),
        refuses=lambda lambd: "" if 0.0 <= lambd < inf else f"lambd must be finite and not negative, got {lambd}",
        eager=eager.softshrink,
        twin="torch.nn.functional.softshrink",
        aten=F.softshrink,
    )
)

add(
    ActivationSpec(
        name="hardshrink",
        module="Hardshrink",
        summary="The input, and 0 near 0.",
        formula="x if |x| > lambd else 0",
        limits="At -lambd and lambd the gradient is 0.",
        example=">>> FF.hardshrink(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-1.,  0.,  2.])",
        reference="",
        aliases=("hard_shrink",),
        parameters=(ParameterSpec("lambd", 0.5, "how near", fixed=True),),
        eager=eager.hardshrink,
        twin="torch.nn.functional.hardshrink",
        aten=F.hardshrink,
    )
)

add(
    ActivationSpec(
        name="threshold",
        module="Threshold",
        summary="The input past a threshold, else a constant.",
        formula="x if x > threshold else value",
        limits="At the threshold the gradient is 0.",
        example=">>> FF.threshold(torch.tensor([-1.0, 0.5, 2.0]), 0.1, 20.0)\ntensor([20.0000,  0.5000,  2.0000])",
        reference="",
        parameters=(
            ParameterSpec(
                "threshold", 0.1, "where the input begins to pass", required=True, required_by_module=True, fixed=True
            ),
            ParameterSpec("value", 20.0, "the value up to there", required=True, required_by_module=True),
        ),
        eager=eager.threshold,
        twin="torch.nn.functional.threshold",
        aten=F.threshold,
        aten_inplace=partial(F.threshold, inplace=True),
    )
)

add(
    ActivationSpec(
        name="identity",
        module="Identity",
        summary="The input itself.",
        formula="x",
        limits="It returns the input, not a copy.",
        example=">>> FF.identity(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-1.0000,  0.5000,  2.0000])",
        reference="",
        aliases=("linear",),
        eager=eager.identity,
        twin="torch.nn.Identity",
        aten=lambda input: input,
        aten_inplace=lambda input: input,
        always_aten=True,
        ignores=True,
    )
)

add(
    ActivationSpec(
        name="relu_squared",
        module="ReLUSquared",
        summary="The square of ReLU.",
        formula="max(x, 0)^2",
        limits="At 0 the gradient is 0.",
        example=">>> FF.relu_squared(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([0.0000, 0.2500, 4.0000])",
        reference="So et al., 2021, arXiv:2109.08668.",
        aliases=("relu2",),
        eager=eager.relu_squared,
    )
)

add(
    ActivationSpec(
        name="star_relu",
        module="StarReLU",
        summary="The square of ReLU, scaled and shifted.",
        formula="scale * max(x, 0)^2 + bias",
        limits="At 0 the gradient is 0. With the defaults mean and variance of a standard normal input are kept.",
        example=">>> FF.star_relu(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-0.4472, -0.2236,  3.1304])",
        reference="Yu et al., 2022, arXiv:2210.13452.",
        parameters=(
            ParameterSpec("scale", 0.8944, "the factor"),
            ParameterSpec("bias", -0.4472, "the value below 0"),
        ),
        eager=eager.star_relu,
    )
)

add(
    ActivationSpec(
        name="quick_gelu",
        module="QuickGELU",
        summary="GELU with a sigmoid in place of the error function.",
        formula="x * sigmoid(1.702 * x)",
        limits="At -inf the value and the gradient are 0, at +inf they are +inf and 1.",
        example=">>> FF.quick_gelu(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-0.1542,  0.3504,  1.9357])",
        reference="Hendrycks, Gimpel, 2016, arXiv:1606.08415.",
        eager=eager.quick_gelu,
        lean_forward=cpu_gates.quick_gelu_lean,
        lean_backward=cpu_gates.quick_gelu_backward_lean,
    )
)

add(
    ActivationSpec(
        name="clipped_gelu",
        module="ClippedGELU",
        summary="GELU between two bounds.",
        formula="min(max(gelu(x), min_val), max_val)",
        limits="At the bounds the gradient is that of GELU.",
        example=">>> FF.clipped_gelu(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-0.1587,  0.3457,  1.9545])",
        reference="Krishnamoorthi, 2018, arXiv:2004.09602.",
        aliases=("gelu_10",),
        parameters=(
            ParameterSpec("min_val", -10.0, "the lower bound"),
            ParameterSpec("max_val", 10.0, "the upper bound"),
        ),
        refuses=lambda low, high: (
            f"min_val must not be greater than max_val, got {low} and {high}" if low > high else ""
        ),
        eager=eager.clipped_gelu,
        device="clipped_gelu",
        lean_forward=cpu_gates.clipped_gelu_lean,
        lean_backward=cpu_gates.clipped_gelu_backward_lean,
    )
)

add(
    ActivationSpec(
        name="laplace",
        module="Laplace",
        summary="The distribution function of a normal variable.",
        formula="(1 + erf((x - mu) / (sigma * sqrt(2)))) / 2",
        limits="At -inf the value is 0, at +inf 1; there the gradient is 0.",
        example=">>> FF.laplace(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([7.1737e-10, 2.3142e-01, 1.0000e+00])",
        reference="Ma et al., 2022, arXiv:2209.10655.",
        parameters=(
            ParameterSpec("mu", 0.707107, "the mean"),
            ParameterSpec("sigma", 0.282095, "the standard deviation; not 0"),
        ),
        refuses=lambda _, sigma: "sigma must not be 0" if sigma == 0.0 else "",
        eager=eager.laplace,
        device="laplace",
    )
)

add(
    ActivationSpec(
        name="xielu",
        module="XIELU",
        summary="Integral of a trainable ELU: quadratic above 0, nearly linear far below.",
        formula=(
            "x * (p * x + beta) if x > 0 else (n + beta) * expm1(min(x, eps)) - n * x, p = softplus(alpha_p), "
            "n = softplus(alpha_n)"
        ),
        limits=(
            "At 0 the gradient is -n, from eps on downwards about beta. At -inf the value is +inf and the gradient -n."
        ),
        example=">>> FF.xielu(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-0.2057,  0.4500,  4.2000])",
        reference="Huang, Schlag, 2024, arXiv:2411.13010; parameters as in transformers.",
        parameters=(
            ParameterSpec("alpha_p", eager.inverse_softplus(0.8), "softplus of it is the coefficient of x^2 above 0"),
            ParameterSpec(
                "alpha_n", eager.inverse_softplus(0.3), "softplus of it, and beta, is the coefficient of expm1 below 0"
            ),
            ParameterSpec("beta", 0.5, "the slope at 0", fixed=True),
            ParameterSpec("eps", -1e-6, "what expm1 is bounded by", fixed=True),
        ),
        always_learned=True,
        arguments=(
            Argument("alpha_p_init", 0.8, "the coefficient of x^2 to begin with"),
            Argument("alpha_n_init", 0.8, "that of expm1 to begin with, greater than beta"),
        ),
        initial=eager.xielu_parameters,
        eager=eager.xielu,
        lean_forward=cpu_curves.xielu_lean,
        lean_backward=cpu_curves.xielu_backward_lean,
    )
)

add(
    ActivationSpec(
        name="snake",
        module="Snake",
        summary="The identity with a periodic part.",
        formula="x + sin(alpha * x)^2 / alpha",
        limits="At the infinities it has no limit: NaN.",
        example=">>> FF.snake(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-0.2919,  0.7298,  2.8268])",
        reference="Liu, Hartwig, Ueda, 2020, arXiv:2006.08195.",
        parameters=(ParameterSpec("alpha", 1.0, "the frequency; not 0"),),
        refuses=lambda alpha: "alpha must not be 0" if alpha == 0.0 else "",
        eager=eager.snake,
        device="snake",
        lean_forward=cpu_curves.snake_lean,
        lean_backward=cpu_curves.snake_backward_lean,
    )
)

add(
    ActivationSpec(
        name="squareplus",
        module="Squareplus",
        summary="A smooth ReLU without exponentials.",
        formula="(x + sqrt(x^2 + b)) / 2",
        limits="At -inf the value and the gradient are 0, at +inf they are +inf and 1.",
        example=">>> FF.squareplus(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([0.6180, 1.2808, 2.4142])",
        reference="Barron, 2021, arXiv:2112.11687.",
        parameters=(ParameterSpec("b", 4.0, "how wide it bends; positive"),),
        refuses=lambda b: "" if b > 0.0 else f"b must be positive, got {b}",
        eager=eager.squareplus,
        device="squareplus",
        lean_forward=cpu_curves.squareplus_lean,
        lean_backward=cpu_curves.squareplus_backward_lean,
    )
)

add(
    ActivationSpec(
        name="hard_mish",
        module="HardMish",
        summary="Mish of three pieces.",
        formula="x / 2 * min(2, max(0, x + 2))",
        limits="At -2 the gradient is -1, at 0 it is 1. At -inf the value is 0.",
        example=">>> FF.hard_mish(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-0.5000,  0.5000,  2.0000])",
        reference="timm; hardswish with other constants.",
        eager=eager.hard_mish,
        lean_forward=cpu_gates.hard_mish_lean,
        lean_backward=cpu_gates.hard_mish_backward_lean,
    )
)

add(
    ActivationSpec(
        name="sqrtsoftplus",
        module="SqrtSoftplus",
        summary="The square root of softplus.",
        formula="sqrt(log(1 + exp(x)))",
        limits="At -inf the value and the gradient are 0, at +inf they are +inf and 0.",
        example=">>> FF.sqrtsoftplus(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([0.5597, 0.9870, 1.4584])",
        reference="transformers.",
        eager=eager.sqrtsoftplus,
        device="sqrtsoftplus",
        lean_forward=cpu_curves.sqrtsoftplus_lean,
        lean_backward=cpu_curves.sqrtsoftplus_backward_lean,
    )
)

add(
    ActivationSpec(
        name="telu",
        module="TeLU",
        summary="The input weighted by the tanh of its exponential.",
        formula="x * tanh(exp(x))",
        limits="At -inf the value and the gradient are 0, at +inf they are +inf and 1.",
        example=">>> FF.telu(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-0.3521,  0.4643,  2.0000])",
        reference="Fernandez, Mali, 2024, arXiv:2412.20269.",
        eager=eager.telu,
        device="telu",
        lean_forward=cpu_gates.telu_lean,
        lean_backward=cpu_gates.telu_backward_lean,
    )
)

add(
    ActivationSpec(
        name="serf",
        module="Serf",
        summary="The input weighted by the error function of its softplus.",
        formula="x * erf(log(1 + exp(x)))",
        limits="At -inf the value and the gradient are 0, at +inf they are +inf and 1.",
        example=">>> FF.serf(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-0.3422,  0.4158,  1.9947])",
        reference="Nag, Bhattacharyya, 2021, arXiv:2108.09598.",
        eager=eager.serf,
        device="serf",
        lean_forward=cpu_gates.serf_lean,
        lean_backward=cpu_gates.serf_backward_lean,
    )
)

add(
    ActivationSpec(
        name="erf",
        module="Erf",
        summary="The error function, a sigmoid between -1 and 1.",
        formula="2 / sqrt(pi) * integral of exp(-t^2) from 0 to x",
        limits="At the infinities the value is -1 and 1, and the gradient 0.",
        example=">>> FF.erf(torch.tensor([-1.0, 0.5, 2.0]))\ntensor([-0.8427,  0.5205,  0.9953])",
        eager=torch.erf,
        aten=torch.erf,
    )
)

register(
    ActivationSpec(
        name="pwl",
        module="PWL",
        kind="piecewise",
        summary="Piecewise-linear function, fixed or learned.",
        formula="linear between the points (breakpoint, value), with the given slopes outside",
        limits=(
            "At a breakpoint the gradient is the adjacent slope of smaller magnitude, the right one if both are equal. "
            "At an infinity the value is the limit; a NaN gives NaN, with the left slope as gradient."
        ),
        example=(
            ">>> FF.pwl(torch.tensor([-2.0, 0.5, 3.0]), [0.0, 1.0], [0.0, 2.0], right_slope=1.0)\ntensor([0., 1., 4.])"
        ),
        reference="numpy.interp, with slopes outside; as an activation, Zhou et al., 2021, arXiv:2104.03693.",
        parameters=(
            ParameterSpec("breakpoints", None, "strictly increasing"),
            ParameterSpec("values", None, "the function at the breakpoints"),
            ParameterSpec("left_slope", 0.0, "the slope before the first breakpoint"),
            ParameterSpec("right_slope", 0.0, "the slope after the last breakpoint"),
        ),
        eager=tables.reference,
        device="pwl",
    )
)

# ----- along a dimension

_TEMPERATURE = ParameterSpec("temperature", 1.0, "what the input is divided by: positive; may be a tensor and learns")
_MASK = ParameterSpec("mask", None, "elements to leave out, where it is False, or numbers to add", fixed=True)
_ROWS = (
    ParameterSpec("dim", None, "the dimension that sums go over", fixed=True),
    ParameterSpec("dtype", None, "of the result", fixed=True),
    _TEMPERATURE,
    _MASK,
)
_NOT_A_NUMBER = "A row of -inf alone, one that is masked as a whole, and one with +inf or NaN give NaN, as in PyTorch."

add(
    ActivationSpec(
        name="softmax",
        module="Softmax",
        kind="rowwise",
        device="softmax",
        summary="Exponentials along a dimension, divided by their sum.",
        formula="exp(x_i) / sum_j exp(x_j)",
        limits=_NOT_A_NUMBER,
        example=(
            ">>> FF.softmax(torch.tensor([0.0, 1.0, 2.0]), 0)\n"
            "tensor([0.0900, 0.2447, 0.6652])\n"
            ">>> keep = torch.tensor([True, True, False])\n"
            ">>> FF.softmax(torch.tensor([0.0, 1.0, 2.0]), 0, temperature=2.0, mask=keep)\n"
            "tensor([0.3775, 0.6225, 0.0000])"
        ),
        reference="Bridle, 1990, NIPS 2; with a temperature, Hinton et al., 2015, arXiv:1503.02531.",
        parameters=_ROWS,
        eager=rows.softmax,
        aten=rows.softmax,
        twin="torch.nn.functional.softmax",
    )
)

add(
    ActivationSpec(
        name="log_softmax",
        module="LogSoftmax",
        kind="rowwise",
        device="softmax",
        summary="The logarithm of softmax, without that of a number which has become 0.",
        formula="x_i - log(sum_j exp(x_j))",
        limits=_NOT_A_NUMBER,
        example=">>> FF.log_softmax(torch.tensor([0.0, 1.0, 200.0]), 0)\ntensor([-200., -199.,    0.])",
        reference="Bridle, 1990, NIPS 2.",
        parameters=_ROWS,
        eager=rows.log_softmax,
        aten=rows.log_softmax,
        twin="torch.nn.functional.log_softmax",
    )
)

add(
    ActivationSpec(
        name="softmin",
        module="Softmin",
        kind="rowwise",
        device="softmax",
        summary="Softmax of the negated input: the smallest element gets most.",
        formula="exp(-x_i) / sum_j exp(-x_j)",
        limits="A row of +inf alone, one that is masked as a whole, and one with -inf or NaN give NaN, as in PyTorch.",
        example=">>> FF.softmin(torch.tensor([0.0, 1.0, 2.0]), 0)\ntensor([0.6652, 0.2447, 0.0900])",
        reference="Bridle, 1990, NIPS 2.",
        parameters=_ROWS,
        eager=rows.softmin,
        aten=rows.softmin,
        twin="torch.nn.functional.softmin",
    )
)

add(
    ActivationSpec(
        name="softmax2d",
        module="Softmax2d",
        kind="rowwise",
        device="softmax",
        summary="Softmax over the channels of an image, at every place.",
        formula="exp(x_c) / sum_k exp(x_k)",
        limits=_NOT_A_NUMBER,
        example=(">>> FF.softmax2d(torch.tensor([0.0, 1.0]).reshape(2, 1, 1)).flatten()\ntensor([0.2689, 0.7311])"),
        reference="Bridle, 1990, NIPS 2.",
        parameters=(_TEMPERATURE, _MASK),
        eager=rows.softmax,
        aten=rows.softmax,
        twin="torch.nn.Softmax2d",
    )
)

# ----- random

add(
    ActivationSpec(
        name="rrelu",
        module="RReLU",
        kind="random",
        device="rrelu",
        summary="Leaky ReLU with a random slope for each element in training, and their mean otherwise.",
        formula="x for x > 0, else slope * x; slope uniform between lower and upper, or (lower + upper) / 2",
        limits=(
            "At 0 the gradient is the slope, as in PyTorch. At an infinity the value is the limit; a NaN gives NaN, "
            "and 1 as its gradient in training."
        ),
        example=">>> FF.rrelu(torch.tensor([-2.0, 3.0]), 0.1, 0.3)\ntensor([-0.4000,  3.0000])",
        reference="Xu et al., 2015, arXiv:1505.00853.",
        parameters=(
            ParameterSpec("lower", 1.0 / 8, "the least slope", fixed=True),
            ParameterSpec("upper", 1.0 / 3, "the largest slope", fixed=True),
            ParameterSpec("training", None, "whether slopes are drawn; a module knows", fixed=True),
        ),
        eager=eager.rrelu,
        twin="torch.nn.functional.rrelu",
    )
)

# ----- gated


def _glu(x: Tensor, dim: float = -1.0) -> Tensor:
    return F.glu(x, int(dim))


add(
    ActivationSpec(
        name="glu",
        module="GLU",
        kind="gated",
        device="sigmoid",
        summary="The first half of the input along a dimension, weighted by the sigmoid of the second.",
        formula="a * sigmoid(b), with a, b = input.chunk(2, dim)",
        limits="At -inf of b the weight is 0, at +inf 1. `packed_glu` takes other layouts and activations.",
        example=">>> FF.glu(torch.tensor([1.0, 2.0, 0.0, 3.0]))\ntensor([0.5000, 1.9051])",
        reference="Dauphin et al., 2016, arXiv:1612.08083.",
        parameters=(ParameterSpec("dim", -1.0, "the dimension that holds both halves", fixed=True),),
        eager=_glu,
        aten=_glu,
        twin="torch.nn.functional.glu",
        # Measured: from there on allocating what PyTorch keeps takes longer than working in pieces.
        pieces_from=2**24,
    )
)
