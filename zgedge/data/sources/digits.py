"""scikit-learn's digits: 1,797 pictures of 8 x 8, values 0 to 16."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from zgedge.data.dataset import Part, Raw, Request, Source
from zgedge.data.split import stratified
from zgedge.extras import need


def _read(request: Request) -> Raw:
    datasets = need("sklearn.datasets", "train", "scikit-learn")
    digits = datasets.load_digits()
    y = np.asarray(digits.target)
    # The split is fixed, so that figures over several training seeds share one test set.
    train, test = (
        Part(np.asarray(digits.images)[rows], [str(v) for v in y[rows]])
        for rows in stratified(y, 0.2, 0)
    )
    return Raw(train, test)


def _find(data_dir: Path) -> str | None:
    return "scikit-learn" if importlib.util.find_spec("sklearn") else None


SOURCE = Source(
    name="digits",
    summary="1,797 handwritten digits, 8 x 8 grey, 10 classes; comes with scikit-learn",
    accepts=lambda spec: spec == "digits",
    read=_read,
    find=_find,
)
