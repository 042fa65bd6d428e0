"""Device functions of softplus, of what is made of it, and of others: value, then derivative, one pair per activation.

The contract is activations.py's. README.md beside this file derives the constants.
"""

import triton
import triton.language as tl

from .device_math import (
    LARGEST,
    LOG2_E,
    ROUNDING,
    SHRINK,
    SHRINK_HALVES,
    bounded,
    reciprocal_positive,
    tanh,
)
from .logarithms import exp_of_minus, log1p_factor_to_one, log1p_tail_to_one
from .normal import DENSITY, FAR, density, density_halves, probability
from .trigonometry import sin_and_cos

INFINITY = tl.constexpr(float("inf"))
# From here on log(1 + exp(-z)) / z is less than half a unit of 1.
IDENTITY = tl.constexpr(17.0)
PI = tl.constexpr(3.1415927410125732)
PI_LOW = tl.constexpr(-8.742277657347586e-08)

# From here on sqrt(x^2 + b) is |x|: 2^60.
FLAT = tl.constexpr(1152921504606846976.0)

# ----- softplus


@triton.jit
def _softplus_parts(x, beta, precise: tl.constexpr):
    """e = exp(-|beta x|), larger by a power of two, and log(1 + e); when precise also e itself."""
    if precise:
        a = tl.abs(beta * x)
        e = exp_of_minus(a, tl.where(a < 110.0, tl.fma(tl.abs(beta), tl.abs(x), -a), 0.0))
        small = e * SHRINK
        return e, tl.fma(small * small, log1p_tail_to_one(small), small), small
    else:
        e = tl.exp2(tl.fma(tl.abs(x), tl.abs(beta) * -LOG2_E, 16.0))
        return e, e * log1p_factor_to_one(e, 1.0), e


@triton.jit
def softplus(x, params, precise: tl.constexpr):
    """log(1 + exp(beta x)) / beta = max(beta x, 0) / beta + log(1 + exp(-|beta x|)) / beta; x past the threshold."""
    beta = params[0]
    # max(beta x, 0) / beta is x on one side.
    rise = bounded(x, tl.where(beta > 0, 0.0, -INFINITY), tl.where(beta > 0, INFINITY, 0.0))
    if precise:
        _, y, _ = _softplus_parts(x, beta, precise)
        # A division that rounds once, by the divisor's inverse in two parts.
        inverse = tl.div_rn(1.0, beta)
        y = tl.fma(y, inverse, tl.fma(y, inverse * tl.fma(-inverse, beta, 1.0), rise))
    else:
        e = tl.exp2(tl.fma(tl.abs(x), tl.abs(beta) * -LOG2_E, 16.0))
        y = tl.fma(e, log1p_factor_to_one(e, 1.0 / beta), rise)
    # What the function jumps by there shows only if the threshold is small.
    if params[1] < IDENTITY:
        y = tl.where(beta * x > params[1], x, y)
    return y


@triton.jit
def softplus_backward(g, x, params, precise: tl.constexpr):
    """d/dx = s = sigmoid(beta x), d/dbeta = (beta x s - log(1 + exp(beta x))) / beta^2; 1 and 0 past the threshold."""
    beta = params[0]
    z = beta * x
    e, y, small = _softplus_parts(x, beta, precise)
    inverse = 1.0 / beta
    if precise:
        share = tl.div_rn(e, 1.0 + small) * SHRINK
        slope = tl.where(z < 0, share, 1.0 - share)
    else:
        u = reciprocal_positive(tl.fma(e, SHRINK_HALVES, 1.0), precise)
        share = e * SHRINK_HALVES * u
        slope = tl.where(z < 0, share, u)
    # Of the even function beta x s - log(1 + exp(beta x)) at -|beta x|; e is 0 at an infinity.
    part = -tl.fma(tl.minimum(tl.abs(z), LARGEST, propagate_nan=tl.PropagateNan.ALL), share, y) * inverse * inverse
    identity = z > params[1]
    return tl.where(identity, g, g * slope), (tl.where(identity, 0.0, g * part), 0.0)


@triton.jit
def _sqrtsoftplus_parts(x, precise: tl.constexpr):
    """What times what is the square root of softplus: exp(x / 2) where x < 0, a root; exp(-|x|) + 1, too."""
    a = tl.abs(x)
    negative = x < 0
    if precise:
        h = exp_of_minus(0.5 * a, 0.0)
        small = h * SHRINK
        e = small * small
        q = tl.fma(e, log1p_tail_to_one(e), 1.0)
        return tl.where(negative, h, 1.0 / SHRINK), tl.where(negative, q, tl.fma(e, q, x)), 1.0 + e
    else:
        # 2^8 exp(-|x| / 2), whose square is 2^16 exp(-|x|); the factor of that is 2^-16 times softplus / exp(-|x|).
        h = tl.exp2(tl.fma(a, -0.5 * LOG2_E, 8.0))
        e = h * h
        q = log1p_factor_to_one(e, 1.0)
        return tl.where(negative, h, 1.0), tl.where(negative, q, tl.fma(e, q, x)), tl.fma(e, SHRINK_HALVES, 1.0)


@triton.jit
def sqrtsoftplus(x, params, precise: tl.constexpr):
    """sqrt(log(1 + exp(x))): exp(x / 2) sqrt(log(1 + exp(x)) / exp(x)) where x < 0."""
    factor, square, _ = _sqrtsoftplus_parts(x, precise)
    if precise:
        return factor * tl.sqrt_rn(square) * SHRINK
    else:
        return factor * tl.sqrt(square)


@triton.jit
def sqrtsoftplus_backward(g, x, params, precise: tl.constexpr):
    """d/dx = sigmoid(x) / (2 y)."""
    factor, square, total = _sqrtsoftplus_parts(x, precise)
    if precise:
        return g * (tl.div_rn(factor, total * tl.sqrt_rn(square)) * (0.5 * SHRINK)), ()
    else:
        # Where x < 0 the root is that of 2^-16 times its square.
        scale = tl.where(x < 0, 0.5 * SHRINK_HALVES, 0.5)
        return g * ((factor * scale) * tl.rsqrt(square) * reciprocal_positive(total, precise)), ()


# ----- algebraic functions


@triton.jit
def _squareplus_parts(x, b, precise: tl.constexpr):
    """(sqrt(x^2 + b) - |x|) / 2 = b / 4 / ((sqrt(x^2 + b) + |x|) / 2), sqrt(x^2 + b), x^2 + b up to FLAT."""
    a = tl.abs(x)
    near = tl.minimum(a, FLAT, propagate_nan=tl.PropagateNan.ALL)
    square = tl.fma(near, near, b)
    root = tl.maximum(tl.sqrt_rn(square) if precise else tl.sqrt(square), a, propagate_nan=tl.PropagateNan.ALL)
    half = tl.fma(root, 0.5, 0.5 * a)
    if precise:
        return tl.div_rn(0.25 * b, half), root, square
    else:
        inverse = tl.rsqrt(half)
        return ((0.25 * b) * inverse) * inverse, root, square


@triton.jit
def squareplus(x, params, precise: tl.constexpr):
    """(x + sqrt(x^2 + b)) / 2."""
    rest, _, _ = _squareplus_parts(x, params[0], precise)
    return tl.maximum(x, 0.0) + rest


@triton.jit
def squareplus_backward(g, x, params, precise: tl.constexpr):
    """d/dx = y / sqrt(x^2 + b), d/db = 1 / (4 sqrt(x^2 + b))."""
    b = params[0]
    rest, root, square = _squareplus_parts(x, b, precise)
    if precise:
        # y / root = b / 2 / (root^2 + |x| root), which near 0 needs no root.
        a = tl.abs(x)
        far = a > FLAT
        low = tl.div_rn(tl.where(far, rest, 0.5 * b), tl.where(far, root, tl.fma(a, root, square)))
        part = tl.div_rn(0.25, root)
        # Where nothing cancels (1 + x / root) / 2 is the more exact.
        share = tl.div_rn(tl.where(far, tl.where(x < 0, -1.0, 1.0), x), tl.where(far, 1.0, root))
        slope = tl.where(x > -0.5 * root, tl.fma(share, 0.5, 0.5), low)
    else:
        inverse = tl.rsqrt(root)
        low, part = (rest * inverse) * inverse, (0.25 * inverse) * inverse
        slope = tl.where(x < 0, low, 1.0 - low)
    return g * slope, (g * part,)


@triton.jit
def softsign(x, params, precise: tl.constexpr):
    """x / (1 + |x|)."""
    x = bounded(x, -LARGEST, LARGEST)
    if precise:
        return tl.div_rn(x, 1.0 + tl.abs(x))
    else:
        root = tl.rsqrt(1.0 + tl.abs(x))
        return (x * root) * root


@triton.jit
def softsign_backward(g, x, params, precise: tl.constexpr):
    """d/dx = 1 / (1 + |x|)^2."""
    d = 1.0 + tl.abs(x)
    if precise:
        return g * tl.div_rn(tl.div_rn(1.0, d), d), ()
    else:
        u = reciprocal_positive(d, precise)
        return g * (u * u), ()


# ----- others


@triton.jit
def _standard(x, mu, sigma):
    """(x - mu) / sigma, between -FAR and FAR, and what it lost in rounding, precise."""
    difference = x - mu
    back = difference + mu
    lost = (x - back) + ((back - difference) - mu)
    u = tl.div_rn(difference, sigma + tl.zeros_like(x))
    lost = (tl.fma(-u, sigma, difference) + lost) / sigma
    return bounded(u, -FAR, FAR), tl.where(tl.abs(u) < FAR, lost, 0.0)


@triton.jit
def laplace(x, params, precise: tl.constexpr):
    """The probability that a normal number of mean mu and deviation sigma is below x."""
    if precise:
        u, u_low = _standard(x, params[0], params[1])
        return probability(u, u_low, precise)
    else:
        return probability((x - params[0]) * (1.0 / params[1]), 0.0, precise)


@triton.jit
def laplace_backward(g, x, params, precise: tl.constexpr):
    """The density: d/dx = p / sigma, d/dmu = -p / sigma, d/dsigma = -p u / sigma, where u = (x - mu) / sigma."""
    inverse = 1.0 / params[1]
    if precise:
        u, u_low = _standard(x, params[0], params[1])
        p = tl.div_rn(density(tl.abs(u), u * u_low, True) * DENSITY, params[1] + tl.zeros_like(x)) * SHRINK
    else:
        u = bounded((x - params[0]) * inverse, -FAR, FAR)
        p = density_halves(u) * (inverse * SHRINK_HALVES)
    dx = g * p
    return dx, (-dx, -(dx * u))


@triton.jit
def snake(x, params, precise: tl.constexpr):
    """x + sin(alpha x)^2 / alpha."""
    alpha = params[0]
    z = alpha * x
    # Where the product overflows: it takes no part in the sum, unless x is infinite.
    z = tl.where(tl.abs(z) < INFINITY, z, x)
    if precise:
        s, _ = sin_and_cos(z, precise)
        return tl.fma(s, tl.div_rn(s, alpha + tl.zeros_like(s)), x)
    else:
        # alpha x = n pi + r. From 2^17 on the square is less than 2^-17 of alpha x: any number from 0 to 1 will do.
        n = tl.fma(z, 0.31830987334251404, ROUNDING) - ROUNDING
        r = tl.fma(n, -PI_LOW, tl.fma(n, -PI, z))
        square = r * r
        q = tl.fma(square, 0.00011597063712542877, -0.003119073109701276)
        q = tl.fma(square, q, 0.04439260810613632)
        q = tl.fma(square, q, -0.33331575989723206)
        square = tl.minimum(square * tl.fma(square, q, 0.9999989867210388), 1.0, propagate_nan=tl.PropagateNan.ALL)
        return tl.fma(square, 1.0 / alpha, x)


@triton.jit
def snake_backward(g, x, params, precise: tl.constexpr):
    """d/dx = 1 + sin(2 z) = (sin(z) + cos(z))^2, d/dalpha = (z sin(2 z) - sin(z)^2) / alpha^2, where z = alpha x."""
    alpha = params[0]
    s, c = sin_and_cos(alpha * x, precise)
    inverse = 1.0 / alpha
    # A square keeps its digits at its roots, elsewhere the product is rounded less.
    slope = (s + c) * (s + c)
    if precise:
        slope = tl.where(slope < 0.25, slope, tl.fma(2.0 * s, c, 1.0))
    return g * slope, (g * (s * inverse) * tl.fma(2.0 * x, c, -(s * inverse)),)


@triton.jit
def tanhshrink(x, params, precise: tl.constexpr):
    """x - tanh(x); near 0, where it cancels, x^3 p(x^2)."""
    z = x * x
    if precise:
        p = tl.fma(z, 0.00031556133762933314, -0.0014195760013535619)
        p = tl.fma(z, p, 0.0030258784536272287)
        p = tl.fma(z, p, -0.005013445857912302)
        p = tl.fma(z, p, 0.009560411795973778)
        p = tl.fma(z, p, -0.022054065018892288)
        p = tl.fma(z, p, 0.05399227514863014)
        p = tl.fma(z, p, -0.13333453238010406)
        p = tl.fma(z, p, 0.3333333432674408)
        return tl.where(z < 1.0, x * z * p, x - tanh(x, precise))
    else:
        p = tl.fma(z, -0.01584305241703987, 0.0524861216545105)
        p = tl.fma(z, p, -0.13321159780025482)
        p = tl.fma(z, p, 0.33333173394203186)
        # 1 - 2 / (exp(2 x) + 1) is tanh(x).
        u = reciprocal_positive(tl.exp2(x * (2.0 * LOG2_E)) + 1.0, precise)
        return tl.where(z < 0.41, x * z * p, tl.fma(2.0, u, x - 1.0))


@triton.jit
def tanhshrink_backward(g, x, params, precise: tl.constexpr):
    """d/dx = tanh(x)^2."""
    t = tanh(x, precise)
    return g * (t * t), ()


@triton.jit
def logsigmoid(x, params, precise: tl.constexpr):
    """-log(1 + exp(-x)) = min(x, 0) - log(1 + exp(-|x|))."""
    _, y, _ = _softplus_parts(x, 1.0, precise)
    return tl.minimum(x, 0.0) - y


@triton.jit
def logsigmoid_backward(g, x, params, precise: tl.constexpr):
    """d/dx = 1 / (1 + exp(x))."""
    if precise:
        e = exp_of_minus(tl.abs(x), 0.0)
        share = tl.div_rn(e, 1.0 + e * SHRINK) * SHRINK
        return g * tl.where(x < 0, 1.0 - share, share), ()
    else:
        # 2^-16 / (2^-16 + 2^-16 exp(x)).
        u = reciprocal_positive(tl.exp2(tl.fma(x, LOG2_E, -16.0)) + SHRINK_HALVES, precise)
        return g * (u * SHRINK_HALVES), ()
