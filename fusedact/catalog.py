"""The built-in activations, one record each: the only list of them anywhere."""

from __future__ import annotations

from torch.nn import functional as F

from . import eager, tables
from .registry import ActivationSpec, ParameterSpec, register

register(
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
        lean_forward=eager.relu_sigmoid_lean,
        lean_backward=eager.relu_sigmoid_backward_lean,
        device="relu_sigmoid",
    )
)

register(
    ActivationSpec(
        name="elu",
        module="ELU",
        summary="Exponential linear unit.",
        formula="x if x > 0 else alpha * (exp(x) - 1)",
        limits="At 0 the gradient is alpha. At -inf the value is -alpha and the gradient 0.",
        example=">>> FF.elu(torch.tensor([-1.0, 0.0, 2.0]))\ntensor([-0.6321,  0.0000,  2.0000])",
        reference="torch.nn.functional.elu; Clevert et al., 2015, arXiv:1511.07289.",
        parameters=(ParameterSpec("alpha", 1.0, "the negative of the limit at -inf"),),
        eager=eager.elu,
        lean_backward=eager.elu_backward_lean,
        aten=F.elu,
        device="elu",
    )
)

register(
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
        reference="torch.nn.functional.selu; Klambauer et al., 2017, arXiv:1706.02515.",
        eager=eager.selu,
        aten=F.selu,
        device="selu",
    )
)

register(
    ActivationSpec(
        name="prelu",
        module="PReLU",
        summary="Leaky ReLU whose slope is learned.",
        formula="x if x > 0 else weight * x",
        limits="At 0 the gradient is the weight. For weight=0 a value of -inf gives NaN, as in torch.",
        example=">>> FF.prelu(torch.tensor([-2.0, 0.0, 3.0]), 0.25)\ntensor([-0.5000,  0.0000,  3.0000])",
        reference="torch.nn.functional.prelu; He et al., 2015, arXiv:1502.01852.",
        parameters=(ParameterSpec("weight", 0.25, "the slope below 0", required=True),),
        eager=eager.prelu,
        lean_forward=eager.prelu_lean,
        lean_backward=eager.prelu_backward_lean,
        aten=F.leaky_relu,
        aten_tensors=eager.prelu_twin,
        device="prelu",
        always_learned=True,
        autocast=True,
    )
)

register(
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
        lean_forward=eager.swish_lean,
        lean_backward=eager.swish_backward_lean,
        device="swish",
    )
)

register(
    ActivationSpec(
        name="pwl",
        module="PWL",
        kind="piecewise",
        summary="Piecewise-linear function with fixed tables.",
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
