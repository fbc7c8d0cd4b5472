"""What happens at an epoch's end: the split into safe and risky pairs, and everything that is measured."""

from callbacks.attack_success import AttackSuccessRate
from callbacks.epoch_cost import EpochCost
from callbacks.figures import Figures
from callbacks.ledger import ScoreLedger
from callbacks.repartition import Repartition, SafeRiskyRepartition
from callbacks.trust import Trust
from callbacks.zero_shot import ZeroShot

__all__ = [
    'AttackSuccessRate',
    'EpochCost',
    'Figures',
    'Repartition',
    'SafeRiskyRepartition',
    'ScoreLedger',
    'Trust',
    'ZeroShot',
]
