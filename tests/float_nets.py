"""Float networks as people make them elsewhere, in ONNX files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

from zgedge.data import Dataset


def write_graph(
    path: Path,
    nodes: Sequence[Any],
    constants: dict[str, Any],
    shape: Sequence[Any] = ("batch", 64),
    *,
    opset: int = 13,
    kind: int = TensorProto.FLOAT,
    outputs: Sequence[str] = ("out",),
    inputs: Sequence[str] = ("in",),
) -> Path:
    """A file of these nodes; constants are arrays or tensors by name."""
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info(name, kind, list(shape)) for name in inputs],
        [helper.make_tensor_value_info(name, kind, ["batch", "any"]) for name in outputs],
        [
            numpy_helper.from_array(value, name) if isinstance(value, np.ndarray) else value
            for name, value in constants.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def centroids(dataset: Dataset, path: Path, mean: float = 0.0, std: float = 16.0) -> Path:
    """The classifier of the nearest class mean: one Gemm, of which nothing is trained.

    It takes (x - mean) / std.
    """
    x = (dataset.x_train - mean) / std
    count = len(dataset.classes)
    means = np.stack([x[dataset.y_train == c].mean(axis=0) for c in range(count)])
    constants = {
        "weights": means.astype(np.float32),
        "bias": (-0.5 * (means**2).sum(axis=1)).astype(np.float32),
    }
    node = helper.make_node("Gemm", ["in", "weights", "bias"], ["out"], name="head", transB=1)
    return write_graph(path, [node], constants, ("batch", dataset.features))


class Residual(nn.Module):
    """Two convolutions with batch norm, and what comes in added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm_one = nn.BatchNorm2d(channels)
        self.two = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm_two = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm_one(self.one(x)))
        return torch.relu(x + self.norm_two(self.two(y)))


def perceptron(inputs: int, units: int, classes: int = 10) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, units), nn.ReLU(),
        nn.Linear(units, units), nn.ReLU(), nn.Linear(units, classes),
    )  # fmt: skip


def convolutional(channels: int = 16, classes: int = 10) -> nn.Module:
    """Convolutions, batch norm, a residual block, both kinds of pools."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(),
        Residual(channels), nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.BatchNorm2d(2 * channels), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * channels, classes),
    )  # fmt: skip


def trained(
    network: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, batch: int = 32
) -> nn.Module:
    """The network after plain float training, ready for inference."""
    steps = epochs * (len(x) // batch)
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps)
    network.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(x))[: len(x) // batch * batch].view(-1, batch):
            loss = functional.cross_entropy(network(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def save(network: nn.Module, path: Path, shape: Sequence[int], **options: Any) -> Path:
    """Write it as torch does, in this shape of one sample."""
    with warnings.catch_warnings():
        # The exporter that needs no further package is on its way out.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.zeros(1, *shape),), str(path), input_names=["in"],
            output_names=["out"], dynamo=False, **options,
        )  # fmt: skip
    onnx.checker.check_model(str(path))
    return path
