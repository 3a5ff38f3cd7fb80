"""The device side: numpy, psutil and the core. Imports nothing of the host side."""

from zgedge.runtime.learner import Learner
from zgedge.runtime.model import Model

__all__ = ["Learner", "Model"]
