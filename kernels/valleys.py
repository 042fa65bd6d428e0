"""Numbers of functions that fall to one minimum and rise from there, of which an output has two inputs.

No Triton here: fusedact/saving/inverses.py reads them too. README.md beside this file says how they were fitted.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class Valley:
    """The minimum of a function f, and polynomials, lowest coefficient first, for what lies on both sides of it.

    s is the root of y less the minimum, r that of the logarithm of the minimum over y to base 2. All valleys have
    polynomials of the same degrees.
    """

    # Where the minimum is, and what it is.
    bottom: float
    minimum: float
    # On the right x is y + bottom - minimum + s p(s) for s up to the end, and y beyond: within 2^-10 s.
    right: tuple[float, ...]
    right_end: float
    # On the left x is bottom + r p(r) for r up to the end, which is float32's: within 2^-12 r.
    left: tuple[float, ...]
    left_end: float
    # For halves, the slope itself: on the right s p(u), u = 2 s / end - 1, which at the end is 1; within 2^-12.8.
    slope_right: tuple[float, ...]
    slope_end: float
    # On the left y s (p(w) + s q(w)) with w the root of -y; within 2^-13.
    slope_left: tuple[float, ...]
    slope_left_more: tuple[float, ...]

    @property
    def minimum_single(self) -> float:
        """The minimum as float32 has it."""
        single: float = struct.unpack("f", struct.pack("f", self.minimum))[0]
        return single

    def numbers(self) -> tuple[float, ...]:
        """All of them in a row, as from_bits.py takes them: first the minimum in two parts of float32."""
        high = self.minimum_single
        points = (high, self.minimum - high, 1.0 / self.minimum, self.bottom, self.bottom - self.minimum)
        ends = (self.right_end, self.left_end, self.slope_end, 2.0 / self.slope_end)
        return (*points, *ends, *self.right, *self.left, *self.slope_right, *self.slope_left, *self.slope_left_more)


SILU = Valley(
    bottom=-1.2784645427610738,
    minimum=-0.2784645427610738,
    right=(
        3.0293772220611572,
        -3.0118117332458496,
        2.419520854949951,
        -1.9986540079116821,
        1.1458706855773926,
        -0.3756369352340698,
        0.06416685879230499,
        -0.004474041983485222,
    ),
    right_end=3.2059335708618164,
    left=(
        -1.3311673402786255,
        -0.40239977836608887,
        0.004594063386321068,
        -0.04107777029275894,
        0.01702047325670719,
        -0.003606142709031701,
        0.00045031163608655334,
        -3.3385960705345497e-05,
        1.3606475022243103e-06,
        -2.3496898649000286e-08,
    ),
    left_end=11.652519226074219,
    slope_right=(
        0.6221638917922974,
        -0.7201768159866333,
        0.40224313735961914,
        0.6488004326820374,
        -1.1126617193222046,
        -0.1655956357717514,
        1.0784493684768677,
        0.003983060363680124,
        -0.7735907435417175,
        0.132347971200943,
        0.2586488723754883,
        -0.08922793716192245,
    ),
    slope_end=3.5040535926818848,
    slope_left=(3.7969954013824463, -0.6745851039886475, -3.862118721008301),
    slope_left_more=(-3.977747678756714, -0.43605515360832214, 4.070816516876221),
)
GELU = Valley(
    bottom=-0.75179152469356446,
    minimum=-0.16997120747990366,
    right=(
        2.152259349822998,
        -2.3466081619262695,
        1.8584895133972168,
        -1.6000479459762573,
        0.8384735584259033,
        -0.14740261435508728,
        -0.021045442670583725,
        0.0066193025559186935,
    ),
    right_end=2.0904343128204346,
    left=(
        -0.7389219999313354,
        -0.16484816372394562,
        0.03665158897638321,
        -0.0022244167048484087,
        -0.001270944601856172,
        0.00043069786624982953,
        -6.572197889909148e-05,
        5.558639259106712e-06,
        -2.513315564556251e-07,
        4.745715820320129e-09,
    ),
    left_end=11.15638256072998,
    slope_right=(
        1.0279792547225952,
        -0.7465023994445801,
        -0.46705737709999084,
        0.6164063215255737,
        0.566609263420105,
        0.23716403543949127,
        -0.8245700001716614,
        -0.8779588341712952,
        0.5591585040092468,
        0.7478800415992737,
        -0.16926373541355133,
        -0.2070980668067932,
    ),
    slope_end=2.16100811958313,
    slope_left=(43.44214630126953, -165.75045776367188, 178.4149169921875),
    slope_left_more=(-83.11599731445312, 307.9766540527344, -295.9403076171875),
)
GELU_TANH = Valley(
    bottom=-0.75246142207101626,
    minimum=-0.17004075057125405,
    right=(
        2.15507173538208,
        -2.3553552627563477,
        1.8970091342926025,
        -1.717565655708313,
        1.022544026374817,
        -0.29434534907341003,
        0.03620423376560211,
        -0.002023492706939578,
    ),
    right_end=2.04205060005188,
    left=(
        -0.7401102185249329,
        -0.1642414927482605,
        0.034512363374233246,
        -0.0007674419903196394,
        -1.5696665286668576e-05,
        -0.00023370140115730464,
        6.77502976031974e-05,
        -8.243201591540128e-06,
        4.822123287340219e-07,
        -1.1173939995501314e-08,
    ),
    left_end=9.921711921691895,
    slope_right=(
        1.043527364730835,
        -0.7080018520355225,
        -0.4686077833175659,
        0.521415650844574,
        0.3654331564903259,
        0.37190601229667664,
        -0.2060573250055313,
        -1.0923203229904175,
        -0.18943126499652863,
        1.056644320487976,
        0.1594190001487732,
        -0.38094452023506165,
    ),
    slope_end=2.114243507385254,
    slope_left=(58.17283630371094, -236.16055297851562, 262.40643310546875),
    slope_left_more=(-116.26612091064453, 447.7761535644531, -438.9324035644531),
)
MISH = Valley(
    bottom=-1.1924312145154952,
    minimum=-0.30884341301725041,
    right=(
        2.7367465496063232,
        -2.8872830867767334,
        2.2335689067840576,
        -1.8548712730407715,
        1.0655226707458496,
        -0.2983718514442444,
        0.026536086574196815,
        0.0014664340997114778,
    ),
    right_end=2.5117266178131104,
    left=(
        -1.2665936946868896,
        -0.4090745151042938,
        -0.03135814890265465,
        -0.015059692785143852,
        0.008291809819638729,
        -0.0019110670546069741,
        0.0002492738713044673,
        -1.900814640976023e-05,
        7.905325105639349e-07,
        -1.3865480319452672e-08,
    ),
    left_end=11.658927917480469,
    slope_right=(
        0.83420330286026,
        -0.8340250253677368,
        -0.020307078957557678,
        1.3458398580551147,
        -0.5011593103408813,
        -1.587681770324707,
        0.38044485449790955,
        1.6788311004638672,
        -0.20351943373680115,
        -1.0298867225646973,
        0.07082581520080566,
        0.2496686577796936,
    ),
    slope_end=2.609370470046997,
    slope_left=(3.72511625289917, -0.24124951660633087, -3.9825754165649414),
    slope_left_more=(-3.8081912994384766, -1.036023736000061, 3.9517548084259033),
)
