"""zgedge: neural networks that cannot grow."""

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from zgedge.train.estimator import ZeroGrowthClassifier

__version__ = "0.5.0"

__all__ = [
    "BudgetError",
    "DataError",
    "Learner",
    "MissingExtraError",
    "Model",
    "ModelError",
    "ProofError",
    "UsageError",
    "ZeroGrowthClassifier",
    "ZgedgeError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # The estimator needs scikit-learn and torch; a device has neither.
    if name == "ZeroGrowthClassifier":
        from zgedge.train.estimator import ZeroGrowthClassifier

        return ZeroGrowthClassifier
    raise AttributeError(f"module 'zgedge' has no attribute {name!r}")
