"""Float networks come in at a quarter of their bytes and answer as well as they did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper
from torch import nn

from tests.cli.conftest import refused, run, run_json
from tests.float_nets import (
    Residual,
    centroids,
    convolutional,
    perceptron,
    save,
    trained,
    write_graph,
)
from zgedge import arena
from zgedge.budget import Task
from zgedge.data import Dataset, load
from zgedge.errors import BudgetError, DataError, ModelError, UsageError
from zgedge.runtime import Model
from zgedge.train import import_onnx, train
from zgedge.train.importing import _best, _body, _cut, _usual
from zgedge.train.inputs import choose_coding
from zgedge.train.quantized import QuantizedNetwork
from zgedge.train.read_onnx import read_onnx
from zgedge.train.rewiring.rigl import RigL

MOST_LOST = 0.01


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


@pytest.fixture(scope="module")
def networks(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Trained in float on digits: one on values from 0 to 1, one on values around 0."""
    folder = tmp_path_factory.mktemp("float")
    x = torch.tensor(digits.x_train / 16.0, dtype=torch.float32).view(-1, 1, 8, 8)
    y = torch.tensor(digits.y_train)
    torch.manual_seed(0)
    rows = trained(perceptron(64, 128), x, y, epochs=15)
    pictures = trained(convolutional(16), (x - 0.3) / 0.4, y, epochs=10)
    return {
        "perceptron": save(rows, folder / "perceptron.onnx", (1, 8, 8)),
        "convolutional": save(pictures, folder / "convolutional.onnx", (1, 8, 8)),
    }


# ---- a quarter of the bytes ----


def test_digits_at_a_quarter_of_the_bytes(
    digits: Dataset, networks: dict[str, Path], tmp_path: Path
) -> None:
    """There are 359 test rows, so one network alone may lose a point by chance."""
    lost = []
    for name, learning, steps in (
        ("perceptron", True, 1200), ("perceptron", False, 800), ("convolutional", False, 500),
    ):  # fmt: skip
        path = networks[name]
        budget = path.stat().st_size // 4
        found = import_onnx(path, digits, budget, learning=learning, steps=steps)
        blob = arena.write(found.result.network, found.result.parameters)
        assert 0.9 * budget < len(blob) <= budget
        assert found.float_bytes == path.stat().st_size
        assert found.float_accuracy is not None
        assert found.float_accuracy > 0.95
        # What is cut away matters least: most is right before anything is trained again.
        assert found.pruned_accuracy is not None
        assert found.pruned_accuracy > 0.85
        out = tmp_path / "net.zge"
        out.write_bytes(blob)
        ours = float((Model.open(out).predict_index(digits.x_test)[0] == digits.y_test).mean())
        assert ours == found.result.accuracy
        lost.append(found.float_accuracy - ours)
    assert np.mean(lost) <= MOST_LOST, lost
    assert max(lost) <= 2 * MOST_LOST, lost


def test_wider_bytes_cut_nothing(digits: Dataset, networks: dict[str, Path]) -> None:
    for name, path in networks.items():
        found = import_onnx(path, digits, path.stat().st_size, learning=False, steps=1)
        assert found.channels == 1.0
        assert all(layer.kind == "dense" for layer in found.plan.network.layers)
        # The edges of a picture see black where they saw the mean.
        most = 0.003 if name == "perceptron" else 0.05
        assert found.float_accuracy is not None
        assert found.pruned_accuracy is not None
        assert abs(found.pruned_accuracy - found.float_accuracy) <= most
        # A step is no training, and costs nothing.
        assert found.result.accuracy is not None
        assert abs(found.result.accuracy - found.pruned_accuracy) <= 0.015


@pytest.mark.slow
@pytest.mark.parametrize("name", ["perceptron", "convolutional"])
def test_mnist_at_a_quarter_of_the_bytes(name: str, mnist_dir: Path, tmp_path: Path) -> None:
    mnist = load("mnist", data_dir=mnist_dir.parent)
    x = torch.tensor(mnist.x_train, dtype=torch.float32).view(-1, 1, 28, 28)
    x = (x / 255.0 - 0.1307) / 0.3081
    y = torch.tensor(mnist.y_train)
    torch.manual_seed(0)
    if name == "perceptron":
        network = trained(perceptron(784, 128), x, y, epochs=4, batch=128)
    else:
        stem = [nn.Conv2d(1, 8, 5, padding=2, stride=2), nn.BatchNorm2d(8), nn.ReLU()]
        block = [Residual(8), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU()]
        head = [nn.Flatten(), nn.Linear(400, 32), nn.ReLU(), nn.Linear(32, 10)]
        network = trained(nn.Sequential(*stem, *block, *head), x, y, epochs=3, batch=128)
    path = save(network, tmp_path / "net.onnx", (1, 28, 28))
    found = import_onnx(path, mnist, path.stat().st_size // 4, epochs=3)
    print(name, path.stat().st_size, found.plan.bytes, found.float_accuracy,
          found.pruned_accuracy, found.result.accuracy, found.plan.reasons[0])  # fmt: skip
    assert found.float_accuracy is not None
    assert found.result.accuracy is not None
    assert found.float_accuracy > 0.96
    assert found.plan.bytes <= path.stat().st_size // 4
    assert found.result.accuracy >= found.float_accuracy - MOST_LOST


# ---- the same numbers ----


def test_an_import_has_the_same_bytes_each_time(digits: Dataset, tmp_path: Path) -> None:
    path = centroids(digits, tmp_path / "net.onnx")
    blobs = set()
    for seed in (0, 0, 1):
        found = import_onnx(path, digits, 4096, steps=10, seed=seed)
        blobs.add(arena.write(found.result.network, found.result.parameters))
    assert len(blobs) == 2


def colours(shape: tuple[int, int, int], samples: int) -> Dataset:
    """Pictures whose class is their brightest channel; each channel has a mean of its own."""
    rng = np.random.default_rng(0)
    y = np.arange(samples) % 3
    x = rng.integers(0, 120, (samples, *shape))
    x[np.arange(samples), :, :, y] += 60
    x[..., 0] += 40
    rows = x.reshape(samples, -1).astype(np.uint8)
    names = ("0", "1", "2")
    return Dataset("colours", rows, y, rows[:60], y[:60], names, True, shape, "picture")


@pytest.mark.parametrize("form", ["rows", "pictures", "depthwise"])
def test_what_fits_begins_as_the_float_network(form: str, tmp_path: Path) -> None:
    """Scaling, layout, order of features and moments: the start computes what was read."""
    data = colours((6, 5, 3), 300)
    torch.manual_seed(1)
    if form == "rows":
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(90, 8), nn.ReLU(), nn.Linear(8, 3)]
    else:
        groups = 3 if form == "depthwise" else 1
        layers = [nn.Conv2d(3, 6 if groups == 1 else 3, 3, groups=groups), nn.ReLU()]
        layers += [nn.Flatten(), nn.Linear(72 if groups == 1 else 36, 3)]
    network = read_onnx(save(nn.Sequential(*layers).eval(), tmp_path / "net.onnx", (3, 6, 5)))
    coding = choose_coding(data, 1)
    codes = coding.encode(data.x_train)
    for scaling in _usual(data):
        body = _body(network, scaling, coding, data.shape)
        candidate, start = _cut(body, Task.of(data), 1 << 20, False, coding, codes, data.y_train)
        wiring = [layer.indices for layer in start.layers]
        generator = torch.Generator().manual_seed(0)
        net = QuantizedNetwork(candidate.plan.network, coding, wiring, generator, start=start)
        ours = net.shadow(torch.from_numpy(codes)).numpy()
        # What the codes stand for, so that their rounding is in both.
        seen = codes / coding.scale.astype(np.float64)
        expected = network.logits(scaling.of(seen))
        np.testing.assert_allclose(ours, expected, atol=2e-4 * np.abs(expected).max())


def test_a_table_begins_as_the_float_network(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    x = (rng.normal(size=(200, 6)) + y[:, None]) * np.array([1, 10, 100, 0.1, 1, 5]) + 7
    data = Dataset("table", x, y, x, y, ("a", "b"), False, (1, 6, 1), "table")
    torch.manual_seed(0)
    network = read_onnx(
        save(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).eval(),
             tmp_path / "net.onnx", (6,))
    )  # fmt: skip
    coding = choose_coding(data, 6)
    codes = coding.encode(x)
    seen = (codes - 128.0) / coding.scale.astype(np.float64) + coding.center
    for scaling in _usual(data):
        body = _body(network, scaling, coding, data.shape)
        candidate, start = _cut(body, Task.of(data), 1 << 20, False, coding, codes, y)
        net = QuantizedNetwork(
            candidate.plan.network, coding, [None, None], torch.Generator(), start=start
        )
        expected = network.logits(scaling.of(seen))
        ours = net.shadow(torch.from_numpy(codes)).numpy()
        np.testing.assert_allclose(ours, expected, atol=2e-4 * np.abs(expected).max())


def test_residual_channels_go_together(tmp_path: Path) -> None:
    """What is cut is cut from both sides of an addition, and least where it weighs least."""
    data = colours((6, 6, 3), 200)
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), Residual(16), nn.AdaptiveAvgPool2d(1),
              nn.Flatten(), nn.Linear(16, 3)]  # fmt: skip
    layers[0].weight.data[::2] *= 10.0  # the even channels weigh more
    network = read_onnx(save(nn.Sequential(*layers).eval(), tmp_path / "net.onnx", (3, 6, 6)))
    coding = choose_coding(data, 1)
    body = _body(network, _usual(data)[0], coding, data.shape)
    codes = coding.encode(data.x_train)
    candidate, _ = _cut(body, Task.of(data), 3000, False, coding, codes, data.y_train)
    trunk = candidate.plan.network.trunk
    assert candidate.channels < 1.0
    assert trunk[0].channels == trunk[2].channels < 16
    assert trunk[2].add == 1
    np.testing.assert_array_equal(candidate.kept[1], candidate.kept[3])
    assert (candidate.kept[1] % 2 == 0).sum() > (candidate.kept[1] % 2).sum()
    assert candidate.plan.bytes <= 3000


def test_training_starts_where_it_is_told(digits: Dataset, networks: dict[str, Path]) -> None:
    """With a rate of almost nothing the trained network is the start."""
    network = read_onnx(networks["perceptron"])
    coding = choose_coding(digits, 1)
    codes = coding.encode(digits.x_train)
    body = _body(network, _usual(digits)[0], coding, digits.shape)
    candidate, start = _cut(body, Task.of(digits), 60000, False, coding, codes, digits.y_train)
    still = replace(start, rate=1e-9)
    result = train(digits, candidate.plan.network, strategy="static", steps=20, start=still)
    again = train(digits, candidate.plan.network, strategy="static", steps=20)
    assert result.shadow_accuracy is not None
    assert result.accuracy is not None
    assert result.shadow_accuracy > 0.95
    assert result.accuracy > 0.9
    assert again.accuracy is not None
    assert again.accuracy < 0.9
    assert start.digest() != still.digest()


def test_wires_that_were_found_move_sparingly() -> None:
    """In a short training a random start moves wires every other step; what was cut must not."""
    usual, settled = RigL(), RigL(0.25, settled=True)
    assert settled.fraction(0.0) == 0.25 * usual.fraction(0.0)
    assert (usual.period(100), settled.period(100)) == (2, 100)
    assert usual.period(10**5) == settled.period(10**5)


def test_a_short_training_does_no_harm(digits: Dataset, networks: dict[str, Path]) -> None:
    """At a rate that ruins it, the cut network is what is kept."""
    network = read_onnx(networks["perceptron"])
    coding = choose_coding(digits, 1)
    codes = coding.encode(digits.x_train)
    body = _body(network, _usual(digits)[0], coding, digits.shape)
    candidate, start = _cut(body, Task.of(digits), 26000, False, coding, codes, digits.y_train)
    result = train(digits, candidate.plan.network, steps=40, start=replace(start, rate=100.0))
    assert result.best_epoch == 0
    assert result.accuracy is not None
    assert result.accuracy > 0.9


# ---- the input ----


@pytest.mark.parametrize(
    ("mean", "std", "names"),
    [(0.0, 16.0, ["x / 16"]), (0.0, 1.0, ["values as they are"]),
     (4.88, 6.02, ["mean 0 and deviation 1"]),
     # Half of the range is so near to the mean of digits that either is right.
     (8.0, 8.0, ["x / 16, from -1 to 1", "mean 0 and deviation 1"])],
)  # fmt: skip
def test_the_scaling_is_found(
    mean: float, std: float, names: list[str], digits: Dataset, tmp_path: Path
) -> None:
    network = read_onnx(centroids(digits, tmp_path / "net.onnx", mean, std))
    scaling, right = _best(network, _usual(digits), digits.x_train, digits.y_train)
    assert scaling.name in names
    given = (digits.x_train - mean) / std
    told = float((network.logits(given).argmax(axis=1) == digits.y_train).mean())
    assert right == pytest.approx(told, abs=0.005)


def test_a_network_of_other_classes_is_refused(digits: Dataset, tmp_path: Path) -> None:
    path = centroids(digits, tmp_path / "net.onnx")
    turned = replace(digits, y_train=(digits.y_train + 3) % 10, y_test=(digits.y_test + 3) % 10)
    with pytest.raises(DataError, match=r"at most .* right.*x / 16.*--mean and --std"):
        import_onnx(path, turned, 4096)


def test_stated_scaling(digits: Dataset, tmp_path: Path) -> None:
    path = centroids(digits, tmp_path / "net.onnx")
    found = import_onnx(path, digits, 4096, std=[16.0], steps=1)
    assert (found.scaling.mean, found.scaling.std) == (0.0, 16.0)
    with pytest.raises(UsageError, match="--std has 2 numbers"):
        import_onnx(path, digits, 4096, std=[16.0, 16.0])
    for wrong in ([0.0], [float("nan")], [-1.0]):
        with pytest.raises(UsageError, match="--std must be"):
            import_onnx(path, digits, 4096, std=wrong)


# ---- what does not fit ----


def test_the_smallest_budget_is_told_and_works(digits: Dataset, networks: dict[str, Path]) -> None:
    with pytest.raises(BudgetError) as error:
        import_onnx(networks["perceptron"], digits, 2048, steps=1)
    smallest = error.value.smallest
    assert smallest is not None
    assert smallest > 2048
    found = import_onnx(networks["perceptron"], digits, smallest, steps=1)
    assert found.plan.bytes <= smallest
    with pytest.raises(BudgetError):
        import_onnx(networks["perceptron"], digits, smallest - 64, steps=1)


def test_data_of_another_form(digits: Dataset, networks: dict[str, Path], tmp_path: Path) -> None:
    path = centroids(digits, tmp_path / "net.onnx")
    narrow = replace(digits, x_train=digits.x_train[:, :49], shape=(7, 7, 1))
    with pytest.raises(DataError, match=r"takes 64 = 64 values, digits has 49"):
        import_onnx(path, narrow, 4096)
    fewer = replace(digits, classes=digits.classes[:9])
    with pytest.raises(DataError, match="10 outputs, digits has 9 classes"):
        import_onnx(path, fewer, 4096)
    long = replace(digits, shape=(4, 16, 1))
    with pytest.raises(DataError, match=r"pictures of \(8, 8, 1\)"):
        import_onnx(networks["convolutional"], long, 8192)
    table = replace(digits, kind="table", shape=(1, 64, 1))
    with pytest.raises(DataError, match="takes pictures, and digits is a table"):
        import_onnx(networks["convolutional"], table, 8192)


# ---- the command ----


def test_command(digits: Dataset, tmp_path: Path) -> None:
    path = centroids(digits, tmp_path / "net.onnx")
    found = run_json("import", path, "--budget", "4KB", "--steps", "20", "--std", "16")
    out = tmp_path / "net.zge"
    assert found["path"] == str(out)
    assert out.stat().st_size == found["bytes"] <= 4096
    assert found["accuracy"] >= found["float_accuracy"]
    assert run_json("eval", out, "digits")["accuracy"] == found["accuracy"]
    assert run_json("info", out)["budget"] == 4096
    before = out.read_bytes()
    again = tmp_path / "again.zge"
    said = run("import", path, "--budget", "4KB", "--steps", "20", "--out", again, "--std", "16")
    assert again.read_bytes() == before
    for words in ("float, as it came", "cut to fit", "in integers", "Input: as stated"):
        assert words in said.stdout


def test_command_refuses(digits: Dataset, tmp_path: Path) -> None:
    path = centroids(digits, tmp_path / "net.onnx")
    out = tmp_path / "net.zge"
    wrong = tmp_path / "wrong.onnx"
    write_graph(wrong, [helper.make_node("Sigmoid", ["in"], ["out"], name="gate")], {})
    assert "node 1, Sigmoid 'gate'" in refused("import", wrong, "--budget", "4KB", code=4)
    assert "cannot be read" in refused("import", tmp_path / "none", "--budget", "4KB", code=4)
    assert "no list of numbers" in refused(
        "import", path, "--budget", "4KB", "--mean", "one", code=2
    )
    refused("import", path, "--budget", "4KB", "--steps", "1", "--epochs", "1", code=2)
    refused("import", path, "--budget", "1KB", code=2)
    refused("import", path, "--budget", "4KB", "--out", tmp_path / "no" / "x.zge", code=1)
    assert not out.exists()


def test_wider_than_the_format(digits: Dataset, tmp_path: Path) -> None:
    weights = {"v": np.ones((64, 70000), np.float32), "w": np.ones((70000, 10), np.float32)}
    nodes = [
        helper.make_node("MatMul", ["in", "v"], ["p"]),
        helper.make_node("Relu", ["p"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["out"]),
    ]
    path = write_graph(tmp_path / "net.onnx", nodes, weights)
    with pytest.raises(ModelError, match="70,000"):
        read_onnx(path)
