"""Optimizers whose step is one fused kernel: ready made, or from an update rule of one's own."""

from .optimizer import Optimizer as Optimizer
from .optimizer import RuleOptimizer as RuleOptimizer
from .ready_rules import SGD as SGD
from .ready_rules import Adam as Adam
from .ready_rules import AdamW as AdamW
from .ready_rules import ClassicMomentum as ClassicMomentum
from .ready_rules import ScaledSGD as ScaledSGD
from .step_log import log_step as log_step
from .update_rules import UpdateRule as UpdateRule
from .update_rules import update_rule as update_rule

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "ClassicMomentum",
    "Optimizer",
    "RuleOptimizer",
    "ScaledSGD",
    "UpdateRule",
    "log_step",
    "update_rule",
]
