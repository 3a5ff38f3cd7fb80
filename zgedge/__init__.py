"""zgedge: neural networks that cannot grow."""

from zgedge.errors import (
    BudgetError,
    DataError,
    MissingExtraError,
    ModelError,
    ProofError,
    UsageError,
    ZgedgeError,
)
from zgedge.runtime import Learner, Model

__version__ = "0.1.0"

__all__ = [
    "BudgetError",
    "DataError",
    "Learner",
    "MissingExtraError",
    "Model",
    "ModelError",
    "ProofError",
    "UsageError",
    "ZgedgeError",
    "__version__",
]
