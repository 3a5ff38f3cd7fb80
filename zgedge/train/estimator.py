"""A scikit-learn estimator: train inside a byte budget, go on learning inside the same arena."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge import arena
from zgedge.budget import Plan, Task, parse_size, plan
from zgedge.data.dataset import Dataset
from zgedge.errors import MissingExtraError
from zgedge.runtime import Learner, Model
from zgedge.train import train

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise MissingExtraError("train", "scikit-learn") from error


class ZeroGrowthClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of at most `budget` bytes, all that predicting and learning touch included.

    budget        a size such as "256KB"
    rewire        strategy of rewiring while training (docs/strategies.md)
    epochs        passes over the data; None chooses by the size of the task
    learning      keep what `partial_fit` needs inside the budget
    rate          learning rate of `partial_fit`; None keeps the file's
    shape         (height, width, channels) of pictures flattened row by row, whose neighbours then
                  share indices and whose values share one scale; None for a table
    random_state  seed: an int, or None for 0

    After `fit`: `classes_`, `n_features_in_`, `plan_` (what the budget bought), `model_` (a
    `zgedge.Model`), `n_bytes_`. `save` writes the file.

    What of scikit-learn's own checks does not apply, and why: docs/estimator.md.
    """

    def __init__(
        self,
        budget: str | int = "256KB",
        *,
        rewire: str = "rigl",
        epochs: int | None = None,
        learning: bool = True,
        rate: float | None = None,
        shape: tuple[int, int, int] | None = None,
        random_state: int | None = None,
    ) -> None:
        self.budget = budget
        self.rewire = rewire
        self.epochs = epochs
        self.learning = learning
        self.rate = rate
        self.shape = shape
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> ZeroGrowthClassifier:  # noqa: N803
        """Plan a network for X [n, features] and y [n], and train it.

        Raises BudgetError where nothing fits, DataError or ValueError for data that cannot be used.
        """
        X, y = self._checked(X, y, reset=True)  # noqa: N806
        self._start(X, y, np.unique(y), epochs=self.epochs)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> ZeroGrowthClassifier:  # noqa: N803
        """Go on learning, and rewiring, inside the arena, each sample once with remembered ones.

        The first call of an estimator that was not fitted needs `classes`, plans the arena for
        them, and trains on its samples as `fit` does. Later calls leave every size as it is.
        Raises ValueError for a class that is not among `classes_`.
        """
        first = not hasattr(self, "model_")
        X, y = self._checked(X, y, reset=first)  # noqa: N806
        if first:
            if classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            self._start(X, y, np.unique(np.asarray(classes)), epochs=self.epochs)
            return self
        if classes is not None and not np.array_equal(
            np.unique(np.asarray(classes)), self.classes_
        ):
            raise ValueError(f"`classes={classes!r}` is not the same as on the last call.")
        numbers = self._numbers(y)
        learner = Learner(self.model_, rate=self.rate, strategy=self.rewire)
        labels = self.model_.classes.tolist()
        with learner.without_caution():
            for row, number in zip(X, numbers, strict=True):
                learner.learn_one(row, labels[number])
        return self

    def predict(self, X: Any) -> npt.NDArray[Any]:  # noqa: N803
        """Labels [n] of X [n, features]."""
        check_is_fitted(self)
        found, _ = self.model_.predict_index(self._inputs(X))
        labels: npt.NDArray[Any] = self.classes_[found]
        return labels

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:  # noqa: N803
        """Softmax [n, classes] of X [n, features]."""
        check_is_fitted(self)
        return self.model_.predict_proba(self._inputs(X))

    def save(self, path: str) -> None:
        """Write the model as a .zge file, atomically."""
        check_is_fitted(self)
        self.model_.save(path)

    def _inputs(self, X: Any) -> npt.NDArray[Any]:  # noqa: N803
        checked: npt.NDArray[Any] = validate_data(
            self, X, reset=False, dtype=[np.float32, np.float64, np.uint8]
        )
        return checked

    def _checked(self, X: Any, y: Any, reset: bool) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:  # noqa: N803
        X, y = validate_data(  # noqa: N806
            self, X, y, reset=reset, dtype=[np.float32, np.float64, np.uint8]
        )
        check_classification_targets(y)
        return X, y

    def _numbers(self, y: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        unseen = np.setdiff1d(y, self.classes_)
        if len(unseen):
            raise ValueError(
                f"The labels {unseen[:10]} are not among the classes {self.classes_[:20]}; "
                "a network that cannot grow knows all its classes from the start."
            )
        return np.searchsorted(self.classes_, y).astype(np.int64)

    def _start(
        self,
        X: npt.NDArray[Any],  # noqa: N803
        y: npt.NDArray[Any],
        classes: npt.NDArray[Any],
        epochs: int | None,
    ) -> None:
        if len(classes) < 2:
            raise ValueError(
                f"Classifier can't train when only one class is present: {classes[0]!r}."
            )
        self.classes_ = classes
        numbers = self._numbers(y)
        seed = 0 if self.random_state is None else int(self.random_state)
        dataset = Dataset(
            name="X", x_train=X, y_train=numbers, x_test=X[:0], y_test=numbers[:0],
            classes=tuple(str(c) for c in classes.tolist()), int_classes=classes.dtype.kind in "iu",
            shape=self.shape or (1, X.shape[1], 1),
            kind="picture" if self.shape else "table", feature_names=None,
        )  # fmt: skip
        self.plan_: Plan = plan(Task.of(dataset), parse_size(self.budget), learning=self.learning)
        result = train(
            dataset, self.plan_.network, strategy=self.rewire, seed=seed, epochs=epochs,
            fit_replay=True,
        )  # fmt: skip
        blob = arena.write(result.network, result.parameters)
        buffer = arena.in_memory(blob)
        self.model_ = Model(buffer, "model")
        self.n_bytes_ = len(blob)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if "model_" in state:
            state["model_"] = state["model_"].to_bytes()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        blob = state.get("model_")
        if blob is not None:
            buffer = arena.in_memory(blob)
            state["model_"] = Model(buffer, "model")
        super().__setstate__(state)
