"""zgedge train: what it writes, what it says, and what it reads."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import TRAIN, csv_text, process, refused, run, run_json, table
from zgedge import arena, cli, data
from zgedge import network as net
from zgedge.errors import BudgetError, ModelError
from zgedge.report import pictures
from zgedge.runtime import Learner, Model
from zgedge.train import search
from zgedge.train.room import with_room
from zgedge.train.search import Choice


def test_writes_one_file_within_the_budget(tmp_path: Path) -> None:
    out = tmp_path / "m.zge"
    result = run("train", "--budget", "4KB", "--epochs", "2", "--out", out)
    assert [p.name for p in tmp_path.iterdir()] == ["m.zge"]
    assert 0.97 * 4096 < out.stat().st_size <= 4096
    assert Model.open(out).arena.budget == 4096
    for words in ("4,096 bytes", "test accuracy", "zgedge info", "zgedge adapt", "zgedge prove"):
        assert words in result.stdout
    assert "epoch    2 of 2" in result.stderr


def test_without_names_it_trains_digits_into_model_zge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run_json("train", *TRAIN)
    assert found["path"] == "model.zge"
    assert Model.open("model.zge").classes.tolist() == list(range(10))


def test_json(tmp_path: Path) -> None:
    out = tmp_path / "m.zge"
    found = run_json("train", *TRAIN, "--out", out)
    assert set(found) >= {"path", "bytes", "budget", "accuracy", "seconds", "layers"}
    assert found["path"] == str(out)
    assert found["bytes"] == out.stat().st_size
    assert found["budget"] == 16384
    assert 0.5 < found["accuracy"] <= 1
    assert found["seconds"] > 0
    assert [layer["outputs"] for layer in found["layers"]][-1] == 10
    assert found["epochs"] == 3
    assert not found["interrupted"]
    assert run_json("eval", out, "digits")["accuracy"] == pytest.approx(found["accuracy"])


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    files = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        run("train", *TRAIN, "--seed", seed, "--out", tmp_path / name)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (65536, ("--spare-classes", "2", "--pending", "16")),
        (49152, ("--spare-classes", "3")),
        (32768, ("--network", "d64", "--spare-classes", "2")),
    ],
    ids=["sparse", "sparse-48KB", "dense"],
)
def test_room_for_new_classes_stays_in_the_budget_and_comes_back_whole(
    size: int, options: tuple[str, ...], tmp_path: Path
) -> None:
    """A file that nothing was learned from yet is what its accepted state is."""
    out = tmp_path / "m.zge"
    found = run_json("train", "--budget", size, "--steps", "30", *options, "--out", out)
    assert found["bytes"] == out.stat().st_size <= size
    learner = Learner(out)
    assert learner.status()["guard"] == "on"
    before = learner.model.arena.buffer.copy()
    learner.rollback()
    parts = (net.WEIGHTS, net.INDICES, net.ROWS)
    assert all(
        np.array_equal(learner.model.arena.section(part), arena.Arena(before).section(part))
        for part in parts
    )


def test_too_small_for_new_classes_names_what_is_enough(tmp_path: Path) -> None:
    options = ("--spare-classes", "20", "--steps", "10", "--out", tmp_path / "m.zge")
    found = run_json("train", "--budget", "2KB", *options, code=5)
    assert found["error"].startswith("2,048 bytes are too few for 20 spare classes")
    assert run_json("train", "--budget", found["smallest"], *options)["bytes"] > 0


def test_more_spare_classes_than_a_model_can_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "choose", None)  # nothing is planned
    args = ("train", "--budget", "2KB", "--out", tmp_path / "m.zge", "--spare-classes", 4090)
    assert "10 classes and 4,090 spare ones are more than the 4,096" in refused(*args, code=2)


@pytest.mark.parametrize(("spare", "pending"), [(3, 0), (20, 0), (200, 3), (0, 40), (7, 200)])
def test_what_is_named_as_enough_for_new_classes_is(
    spare: int, pending: int, tmp_path: Path
) -> None:
    digits = data.load("digits")

    def planned(size: int) -> Choice | BudgetError:
        try:
            return with_room(
                lambda share, left, fits: search.choose(digits, share, fits=fits),
                lambda found, share: search.shrunk(found, digits, share),
                size, digits.classes, spare, pending, None,
            )  # fmt: skip
        except BudgetError as error:
            return error

    found = map(planned, range(1000, 12_000, 500))
    refused = [x for x in found if isinstance(x, BudgetError) and "spare" in str(x)]
    assert refused
    assert all(isinstance(planned(x.smallest or 0), Choice) for x in refused)
    # And a file of no more bytes can be written once it is trained.
    size = refused[-1].smallest
    given = ("--budget", size, "--spare-classes", spare, "--pending", pending, "--steps", 1)
    assert run_json("train", *given, "--out", tmp_path / "m.zge")["bytes"] <= (size or 0)


@pytest.mark.parametrize(
    ("budget", "spare", "options"),
    [
        ("150702", 1000, ()),
        ("41800", 100, ()),
        ("12KB", 100, ("--network", "s:16/4 b1")),
        ("72000", 1000, ("--rewire", "attention")),
        ("6600", 5, ("--pending", 50)),
    ],
)
def test_no_training_ends_without_room_for_a_file(
    budget: str, spare: int, options: tuple[object, ...], tmp_path: Path
) -> None:
    """Anchors, and the rows that an accepted state then has, come at its end."""
    out = tmp_path / "m.zge"
    given = ("train", "--budget", budget, "--spare-classes", spare, *options, "--steps", 1)
    found = run_json(*given, "--out", out)
    assert found["bytes"] <= found["budget"]
    assert Learner(out).model.arena.network.classes == 10 + spare


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--teacher", "--rewire", "set", "--seed", 3),
        ("--no-learning", "--unknown"),
        ("--spare-classes", 2, "--pending", 5, "--remember", "reservoir"),
        ("--network", "s136:20/4 b4 r99"),
        ("--budget", "64KB", "--train-time", "3s"),
    ],
    ids=lambda options: " ".join(map(str, options)) or "none",
)
def test_what_it_says_gives_the_same_bytes_again(tmp_path: Path, options: tuple[object]) -> None:
    first, second = tmp_path / "a.zge", tmp_path / "b.zge"
    length = () if "--train-time" in options else ("--epochs", 2)
    found = run_json("train", "--budget", "16KB", *length, *options, "--out", first)
    run("train", *shlex.split(found["reproduce"]), "--out", second)
    assert first.read_bytes() == second.read_bytes()


def test_options_of_the_data_are_said_again(tmp_path: Path) -> None:
    data, files = tmp_path / "gait.csv", [tmp_path / "a.zge", tmp_path / "b.zge"]
    data.write_text(stream(600, 0).replace("gait", "what"))
    options = ("--window", 16, "--hop", 4, "--label", "what", "--budget", "4KB", "--epochs", 2)
    found = run_json("train", data, *options, "--out", files[0])
    run("train", data, *shlex.split(found["reproduce"]), "--out", files[1])
    assert files[0].read_bytes() == files[1].read_bytes()


def test_side_is_said_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("left", "right"):
        (tmp_path / "shots" / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 256, (12, 12)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "shots" / name / f"{i}.png")
    options = ("--side", 8, "--budget", "4KB", "--epochs", 1)
    found = run_json("train", tmp_path / "shots", *options, "--out", tmp_path / "m.zge")
    assert "--side 8" in found["reproduce"]


@pytest.mark.parametrize("verb", ["train", "plan"])
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--latency", "5"),
        ("--network", "foo"),
        ("--network", "s16:8 bar b4"),
        ("--network", "c3x100000"),
    ],
)
def test_words_are_checked_before_the_data(
    tmp_path: Path, verb: str, option: str, value: str
) -> None:
    said = refused(verb, tmp_path / "none.csv", "--budget", "16KB", option, value, code=2)
    assert repr("bar" if "bar" in value else value) in said
    assert ("a number has more than 5 digits" in said) == ("100000" in value)


@pytest.mark.parametrize(("network", "hidden"), [("s32:8/4", True), ("s:8/4", False)])
def test_a_teacher_is_told_of(tmp_path: Path, network: str, hidden: bool) -> None:
    args = ("train", "--budget", "16KB", "--network", network, "--steps", 1)
    said = run(*args, "--teacher", "--out", tmp_path / "m.zge").stderr
    weights = 64 * 256 + 256 * 10 if hidden else 64 * 10
    assert f"a float network of {weights:,} weights" in said
    assert ("no hidden units" in said) != hidden


def test_what_next_names_the_report(tmp_path: Path) -> None:
    out, log = tmp_path / "m.zge", tmp_path / "log.jsonl"
    said = run("train", *TRAIN, "--out", out).stdout
    assert f"zgedge report {out} --data digits" in said
    said = run("train", *TRAIN, "--out", out, "--log", log).stdout
    assert f"zgedge report {out} --data digits --log {log}" in said


@pytest.mark.parametrize("strategy", ["rigl", "set", "static"])
def test_rewiring_strategy(tmp_path: Path, strategy: str) -> None:
    out = tmp_path / "m.zge"
    found = run_json("train", *TRAIN, "--rewire", strategy, "--out", out)
    assert (found["rewired"] > 0) == (strategy != "static")
    assert Learner(out).status()["strategy"] == strategy


def test_log_draws_a_picture(tmp_path: Path) -> None:
    log, picture = tmp_path / "log.jsonl", tmp_path / "picture.png"
    run("train", *TRAIN, "--out", tmp_path / "m.zge", "--log", log)
    assert [e["event"] for e in pictures.read_log(log)].count("epoch") == 3
    pictures.draw(log, picture)
    with Image.open(picture) as drawn:
        assert min(drawn.size) > 400


def test_no_learning_is_inference_only(model: Path, fixed: Path, tmp_path: Path) -> None:
    about = run_json("info", fixed)
    assert not about["learning"]
    assert about["bytes"] == about["inference_bytes"]
    assert about["replay_samples"] == 0
    learning = run_json("info", model)
    assert about["connections"] == learning["connections"]  # the network is named
    assert about["bytes"] == learning["inference_bytes"] < learning["bytes"]
    result = run("train", *TRAIN, "--no-learning", "--out", tmp_path / "n.zge")
    assert "zgedge adapt" not in result.stdout  # it would be refused


def moved_text(csv: str) -> str:
    """The table with its columns in another order."""
    lines = [line.split(",") for line in csv.splitlines()]
    return "".join(",".join([*line[:0:-1], line[0]]) + "\n" for line in lines)


def test_columns_in_another_order_are_put_in_order(tmp_path: Path) -> None:
    rows, out = table(300), tmp_path / "m.zge"
    data, moved, other = (tmp_path / f"{name}.csv" for name in ("data", "moved", "other"))
    data.write_text(csv_text(rows))
    moved.write_text(moved_text(data.read_text()))
    other.write_text(data.read_text().replace("s1,", "s9,", 1))
    train = ("--label", "kind", "--budget", "4KB", "--epochs", "3")
    said = run("train", data, *train, "--out", out).stdout
    assert "names of 6 columns" in said
    assert Model.open(out).arena.feature_names == tuple(f"s{i}" for i in range(6))
    expected = run_json("eval", out, data, "--label", "kind")
    assert expected["accuracy"] > 0.8
    assert run_json("eval", out, moved) == expected
    assert run("predict", out, moved).stdout == run("predict", out, data).stdout
    with moved.open() as rows_in:
        service = process("run", out, "--source", "-", "--freeze", "--json", stdin=rows_in)
        found = json.loads(service.communicate(timeout=60)[0])
    assert found["correct"] / found["scored"] == pytest.approx(expected["accuracy"])
    held = run_json("eval", out, data, "--label", "kind", "--held-out")
    assert held == run_json("eval", out, moved, "--held-out")
    assert "no column 's1'" in refused("eval", out, other, "--label", "kind", code=3)
    assert "no column 's1'" in refused("eval", out, other, "--label", "kind", "--held-out", code=3)


def test_an_analytic_head_finds_its_columns_by_their_names(tmp_path: Path) -> None:
    data, moved = tmp_path / "data.csv", tmp_path / "moved.csv"
    data.write_text(csv_text(table(300)))
    moved.write_text(moved_text(data.read_text()))
    train = ("train", data, "--label", "kind", "--head", "analytic", "--budget")
    for more in ((), ("--spare-classes", "2")):
        out = tmp_path / f"{len(more)}.zge"
        assert "may come in any order" in run(*train, "4KB", *more, "--out", out).stdout
        expected = run_json("eval", out, data, "--label", "kind")
        assert expected["accuracy"] > 0.8
        assert run_json("eval", out, moved) == expected
    wide = tmp_path / "wide.csv"
    wide.write_text(data.read_text().replace("s1,", f"{'s' * 600},", 1))
    out = tmp_path / "wide.zge"
    said = run("train", wide, *train[2:], "4KB", "--out", out).stdout
    assert "in their order only" in said
    assert Model.open(out).arena.feature_names is None


def test_own_csv_by_label_name(tmp_path: Path) -> None:
    data = tmp_path / "kinds.csv"
    data.write_text(csv_text(table(300)))
    out = tmp_path / "m.zge"
    found = run_json("train", data, "--label", "kind", "--budget", "2KB", "--out", out)
    assert found["accuracy"] > 0.9
    assert Model.open(out).classes.tolist() == ["a", "b", "c"]
    assert run_json("eval", out, data, "--label", "kind")["accuracy"] > 0.9


def test_own_npz_with_its_test_rows(tmp_path: Path) -> None:
    train, test = table(200), table(40, seed=1)
    data = tmp_path / "own.npz"
    np.savez(
        data, x=train[:, :-1], y=train[:, -1].astype(int),
        x_test=test[:, :-1], y_test=test[:, -1].astype(int),
    )  # fmt: skip
    out = tmp_path / "m.zge"
    assert run_json("train", data, "--budget", "2KB", "--out", out)["accuracy"] > 0.9
    assert run_json("eval", out, data)["samples"] == 40


def test_folder_of_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("left", "right"):  # the half that is lit
        (tmp_path / "shots" / name).mkdir(parents=True)
        for i in range(30):
            pixels = rng.integers(0, 60, (8, 6)).astype(np.uint8)
            pixels[:, :3] += np.uint8(150 * (name == "left"))
            pixels[:, 3:] += np.uint8(150 * (name == "right"))
            Image.fromarray(pixels).save(tmp_path / "shots" / name / f"{i}.png")
    out = tmp_path / "m.zge"
    found = run_json("train", tmp_path / "shots", "--budget", "2KB", "--out", out)
    assert found["accuracy"] == 1
    about = run_json("info", out)
    assert about["classes"] == ["left", "right"]
    assert about["shape"] == [8, 6, 1]
    answers = run("predict", out, tmp_path / "shots" / "right").stdout.splitlines()
    assert [a.split("\t")[0] for a in answers] == ["right"] * 30


@pytest.mark.parametrize(("rows", "held"), [(12, 0), (60, 3)])
def test_rows_that_are_held_out_are_counted(tmp_path: Path, rows: int, held: int) -> None:
    data, log = tmp_path / "kinds.csv", tmp_path / "log.jsonl"
    data.write_text(csv_text(table(rows)))
    args = ("train", data, "--label", "kind", "--budget", "2KB", "--epochs", 2, "--log", log)
    found = run_json(*args, "--out", tmp_path / "m.zge")
    assert found["held_out"] == held
    assert (found["validation_accuracy"] is None) == (held == 0)
    start, *_, end = (json.loads(line) for line in log.read_text().splitlines())
    assert start["held_out"] == held
    assert end["validation_accuracy"] == found["validation_accuracy"]
    said = run(*args, "--out", tmp_path / "m.zge")
    assert ("accuracy on training rows" in said.stderr) == (held == 0)
    assert ("too few to hold some out" in " ".join(said.stdout.split())) == (held == 0)


def stream(rows: int, seed: int) -> str:
    """A sensor that swings slowly or fast, a quarter of the rows at a time."""
    rng = np.random.default_rng(seed)
    fast = np.arange(rows) // 50 % 2
    phase = np.cumsum(np.where(fast, 1.6, 0.3))
    lines = [
        f"{np.sin(p) + n:.3f},{np.cos(p) + m:.3f},{'fast' if f else 'slow'}"
        for p, f, n, m in zip(phase, fast, *rng.normal(0, 0.05, (2, rows)), strict=True)
    ]
    return "\n".join(["x,y,gait", *lines]) + "\n"


def test_stream_in_windows(tmp_path: Path) -> None:
    data, later, out = tmp_path / "gait.csv", tmp_path / "later.csv", tmp_path / "m.zge"
    data.write_text(stream(2000, 0))
    later.write_text(stream(400, 1))
    found = run_json("train", data, "--window", "16", "--hop", "4", "--budget", "4KB", "--out", out)
    assert found["accuracy"] > 0.8
    about = run_json("info", out)
    assert about["shape"] == [16, 2, 1]
    assert about["task"] == "series"
    # The model knows its window; the hop is a choice.
    assert run_json("eval", out, later)["samples"] == 400 // 16
    assert len(run("predict", out, later, "--hop", "1").stdout.splitlines()) == 400 - 16 + 1


def test_unknown_refuses_some(tmp_path: Path) -> None:
    out = tmp_path / "m.zge"
    run("train", *TRAIN, "--unknown", "--out", out)
    below = run_json("info", out)["unknown_below"]
    assert 0 < below < 1
    x = np.random.default_rng(0).integers(0, 17, (200, 64)).astype(np.uint8)  # no digits
    np.save(tmp_path / "noise.npy", x)
    found = run_json("predict", out, tmp_path / "noise.npy")
    assert found["unknown"] == found["labels"].count(-1) > 50
    assert all(
        (s < below) == (n == -1) for s, n in zip(found["scores"], found["labels"], strict=True)
    )
    assert run_json("eval", out, "digits")["unknown"] < 120


def test_mnist_is_found_in_a_data_folder(tmp_path: Path) -> None:
    from tests.data.conftest import write_mnist

    write_mnist(tmp_path / "mnist", samples=60)
    out = tmp_path / "m.zge"
    found = run_json(
        "train", "mnist", "--data-dir", tmp_path, "--budget", "2KB", "--epochs", "1", "--out", out
    )
    assert found["accuracy"] is not None
    assert json.loads(run("eval", out, "mnist", "--data-dir", tmp_path, "--json").stdout)


@pytest.mark.parametrize("kind", ["pictures", "table", "windows"])
def test_rows_held_out_are_those_of_training(kind: str, tmp_path: Path) -> None:
    """What train says of the rows that it kept back, eval and report say of the same rows again."""
    options: tuple[str, ...] = ()
    if kind == "pictures":
        source = tmp_path / "photos"
        rng = np.random.default_rng(0)
        for name, low in (("dark", 0), ("light", 2)):
            (source / name).mkdir(parents=True)
            for i in range(40):
                pixels = rng.integers(low, low + 150, (20, 30 if i % 2 else 20, 3), np.uint8)
                Image.fromarray(pixels).save(source / name / f"{i}.png")
    else:
        source = tmp_path / "t.csv"
        rows = table(240)
        if kind == "windows":  # the rows of a window have one label
            rows = np.repeat(rows, 4, axis=0)
            options = ("--window", "4")
        source.write_text(csv_text(rows))
    out = tmp_path / "m.zge"
    label = () if kind == "pictures" else ("--label", "kind")
    given = ("--budget", "8KB", "--steps", "20", *label, *options, "--out", out)
    made = run_json("train", source, *given)
    whole = run_json("eval", out, source, *label)
    part = run_json("eval", out, source, *label, "--held-out")
    assert part["samples"] == round(0.2 * whole["samples"])
    assert part["accuracy"] == pytest.approx(made["accuracy"])
    page = tmp_path / "r.html"
    told = run_json("report", out, "--data", source, *label, "--held-out", "--out", page)
    assert (told["samples"], told["accuracy"]) == (part["samples"], part["accuracy"])
    text = page.read_text()
    assert "rows held out" in text
    if kind == "pictures":  # a mistake is shown with its file, of the class that it is
        assert told["wrong"]
        shown = re.findall(r'is <b><bdi>(\w+)</bdi></b>.*?title="([^"]*)"', text)
        assert len(shown) == min(24, told["wrong"])
        assert all(Path(path).is_file() and Path(path).parent.name == of for of, path in shown)
        assert "numbered from 0" not in text


def test_rows_held_out_are_of_some_data(tmp_path: Path) -> None:
    out = tmp_path / "m.zge"
    run("train", *TRAIN, "--out", out)
    assert "--data" in run_json("report", out, "--held-out", code=2)["hint"]
    assert run_json("eval", out, "digits", "--held-out") == run_json("eval", out, "digits")


@pytest.mark.parametrize("fewest", [1, 10**6])
def test_a_time_of_a_few_steps_is_said_to_teach_little(
    fewest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How many steps a second has is the machine's.
    monkeypatch.setattr(cli, "FEWEST_STEPS", fewest)
    out = tmp_path / "m.zge"
    said = run("train", "--budget", "64KB", "--train-time", "1s", "--out", out).stdout
    assert "In 1 s, the choice of the network included" in said
    few = "So few steps teach little: give more than 1 s, or --network" in said
    assert few == (fewest > 1)


def test_an_accuracy_of_training_rows_is_called_that_in_the_report(tmp_path: Path) -> None:
    source, log, out, page = (tmp_path / n for n in ("x.npz", "l.jsonl", "m.zge", "r.html"))
    rng = np.random.default_rng(0)
    for rows, said in ((5, "accuracy on training rows"), (300, "accuracy on held-out rows")):
        y = np.arange(rows) % 2
        np.savez(source, x=rng.normal(y[:, None], 0.3, (rows, 6)), y=y)
        run("train", source, "--budget", "4KB", "--epochs", 2, "--log", log, "--out", out)
        run("report", out, "--log", log, "--out", page)
        assert said in page.read_text()


@pytest.mark.parametrize(
    ("rows", "options", "why"),
    [
        (900, (), "72 rows are held out, 136 are needed"),
        (2400, ("--budget", "4KB"), r"^\d+ anchors .* take [\d,]+ bytes, more than half"),
        (900, ("--network", "d32 r50"), "the replay was named, and stays as it is"),
        (2400, ("--network", "d8"), None),
        (900, ("--no-learning",), None),
    ],
    ids=["rows", "bytes", "named", "guarded", "no learning"],
)  # fmt: skip
def test_why_there_is_no_guard(
    tmp_path: Path, rows: int, options: tuple[str, ...], why: str | None
) -> None:
    data, out = tmp_path / "kinds.csv", tmp_path / "m.zge"
    data.write_text(csv_text(table(rows, columns=60)))
    train = ("train", data, "--label", "kind", "--budget", "32KB", "--epochs", "1", "--out", out)
    found = run_json(*train, *options)
    guard = Model.open(out).arena.network.anchors
    said = run(*train, *options).stdout
    if why is None:
        assert found["no_guard"] is None
        assert "No guard" not in said
        assert (guard > 0) == ("--no-learning" not in options)
        return
    assert not guard
    assert re.search(why, found["no_guard"])
    assert "No guard over what it learns on a device: " in said
    if "--network" not in options:
        with pytest.raises(ModelError, match="on more rows, or to a larger budget"):
            Learner(Model.open(out)).accept()


def test_what_next_is_the_report_of_rows_that_were_held_out(tmp_path: Path) -> None:
    data, out = tmp_path / "kinds.csv", tmp_path / "m.zge"
    data.write_text(csv_text(table(120)))
    given = ("--budget", "4KB", "--steps", "5", "--out", out)
    said = " ".join(run("train", data, "--label", "kind", *given).stdout.split())
    assert f"--data {data} --label kind --held-out" in said
    assert "--held-out" not in run("train", *given).stdout
