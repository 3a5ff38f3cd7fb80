"""The other runtimes of the speed tables: LiteRT, torch and numpy, one thread each.

Each function sets a peer up and returns a `Runner` for it. Nothing is measured here.

LiteRT runs the dense int8 network of `tflite_model` with its default delegate, XNNPACK:

- through its Python API (`set_tensor`, `invoke`, `get_tensor`),
- through its C API, `LiteRtRunCompiledModel`, which `libLiteRt.so` exports,
- through `tflite::Interpreter::Invoke`, the call that C++ applications make and that the Python
  API wraps. The wheel does not export it and has no `TfLiteInterpreter*` functions either, but its
  symbol table names it, so it is called on the interpreter that the Python API made, from a C loop.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge.bench.tflite_model import DenseModel, build_tflite
from zgedge.bench.timing import Runner, loop
from zgedge.errors import ZgedgeError
from zgedge.extras import need

# The exported function of the wheel whose distance to Interpreter::Invoke the symbol table gives.
_ANCHOR = "Wrapped_PyInit__pywrap_litert_interpreter_wrapper"
_INVOKE = "_ZN6tflite4impl11Interpreter6InvokeEv"

# Widths of the network that all speed tables use.
WIDTHS = (784, 256, 10)


class PeerUnavailableError(ZgedgeError):
    """A peer cannot be run on this machine or with this version of its package."""


@lru_cache(maxsize=1)
def driver() -> ctypes.CDLL:
    """The timing loops of driver.c, compiled on first use with `$CC`, `cc` or `gcc`.

    Raises PeerUnavailableError where there is no compiler.
    """
    compiler = next(
        (
            found
            for name in (os.environ.get("CC"), "cc", "gcc")
            if name and (found := shutil.which(name))
        ),
        None,
    )
    if compiler is None:
        raise PeerUnavailableError("No C compiler is here to build the timing loops.")
    source = Path(__file__).with_name("driver.c")
    folder = tempfile.mkdtemp(prefix="zgedge-bench-")
    try:
        library = Path(folder, "driver.so")
        command = [compiler, "-std=c11", "-O2", "-shared", "-fPIC", str(source), "-o", str(library)]
        done = subprocess.run([*command, "-ldl"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PeerUnavailableError(f"{compiler} could not build {source.name}: {done.stderr}")
        loaded = ctypes.CDLL(str(library))
    finally:
        shutil.rmtree(folder)  # the loaded library stays mapped
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    loaded.driver_interpreter.restype = ctypes.c_int64
    loaded.driver_interpreter.argtypes = [
        *(pointer, pointer, pointer, pointer, pointer, size, size, pointer, size),
        *(ctypes.c_int64, ctypes.c_int),
    ]
    loaded.driver_compiled_open.argtypes = [ctypes.c_char_p, pointer, size, size, size, pointer]
    loaded.driver_compiled.restype = ctypes.c_int64
    loaded.driver_compiled.argtypes = [
        *(pointer, pointer, size, pointer, ctypes.c_int64, ctypes.c_int)
    ]
    loaded.driver_zge.restype = ctypes.c_int64
    loaded.driver_zge.argtypes = [*(pointer, pointer, pointer, size, size, pointer, ctypes.c_int64)]
    return loaded


def elapsed(nanoseconds: int, who: str) -> int:
    """What a loop of driver.c returned, or PeerUnavailableError where it is a failure."""
    if nanoseconds < 0:
        raise PeerUnavailableError(f"{who} stopped with status {-nanoseconds}.")
    return nanoseconds


def _interpreter(model: DenseModel) -> tuple[Any, int, int]:
    """LiteRT's interpreter with the model, and the indices of its input and output."""
    module = need("ai_edge_litert.interpreter", "export")
    interpreter = module.Interpreter(model_content=build_tflite(model), num_threads=1)
    interpreter.allocate_tensors()
    names = [op["op_name"] for op in interpreter._get_ops_details()]
    if "DELEGATE" not in names:
        raise PeerUnavailableError("LiteRT did not hand the network to XNNPACK.")
    return (
        interpreter,
        int(interpreter.get_input_details()[0]["index"]),
        int(interpreter.get_output_details()[0]["index"]),
    )


def litert_python(model: DenseModel, x: npt.NDArray[np.int8]) -> Runner:
    """The Python API: write an input, invoke, read the output. x int8 (n, inputs)."""
    interpreter, input_index, output_index = _interpreter(model)
    rows = [x[i : i + 1] for i in range(len(x))]
    y = np.zeros((len(x), model.outputs), np.int8)

    def run(calls: int) -> int:
        set_tensor, invoke, get_tensor = (
            interpreter.set_tensor,
            interpreter.invoke,
            interpreter.get_tensor,
        )
        count, at = len(rows), 0
        start = time.perf_counter_ns()
        for _ in range(calls):
            set_tensor(input_index, rows[at])
            invoke()
            get_tensor(output_index)
            at = at + 1 if at + 1 < count else 0
        return time.perf_counter_ns() - start

    def check() -> npt.NDArray[np.int8]:
        for i, row in enumerate(rows):
            interpreter.set_tensor(input_index, row)
            interpreter.invoke()
            y[i] = interpreter.get_tensor(output_index)[0]
        return y

    return Runner("LiteRT, Python API", run, check, (interpreter,))


def _litert_folder() -> Path:
    return Path(need("ai_edge_litert.interpreter", "export").__file__ or "").parent


def _address_of_invoke() -> int:
    """Address of tflite::Interpreter::Invoke in this process."""
    path = _litert_folder() / "libpywrap_litert_common.so"
    if not path.exists() or shutil.which("nm") is None:
        raise PeerUnavailableError("LiteRT's Interpreter::Invoke cannot be looked up here.")
    listing = subprocess.run(["nm", str(path)], capture_output=True, text=True, check=False).stdout
    offsets = {}
    for line in listing.splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[2] in (_ANCHOR, _INVOKE):
            offsets[fields[2]] = int(fields[0], 16)
    if len(offsets) != 2:
        raise PeerUnavailableError("This version of LiteRT does not name Interpreter::Invoke.")
    anchor = ctypes.cast(getattr(ctypes.CDLL(str(path)), _ANCHOR), ctypes.c_void_p).value or 0
    return anchor - offsets[_ANCHOR] + offsets[_INVOKE]


def litert_invoke(model: DenseModel, x: npt.NDArray[np.int8], copy: bool = True) -> Runner:
    """`tflite::Interpreter::Invoke` from a C loop; with `copy`, input and output are copied too."""
    interpreter, input_index, output_index = _interpreter(model)
    invoke = _address_of_invoke()
    handle = interpreter._native_handle()
    x = np.ascontiguousarray(x)
    y = np.zeros((len(x), model.outputs), np.int8)
    into = interpreter.tensor(input_index)().ctypes.data
    out = interpreter.tensor(output_index)().ctypes.data
    loop = driver().driver_interpreter

    def run(calls: int) -> int:
        return elapsed(
            loop(
                *(invoke, handle, into, out, x.ctypes.data, model.inputs, len(x)),
                *(y.ctypes.data, model.outputs, calls, copy),
            ),
            "LiteRT",
        )

    def check() -> npt.NDArray[np.int8]:
        run(len(x))
        return y

    name = "LiteRT, C++ Interpreter::Invoke" + ("" if copy else " alone")
    return Runner(name, run, check, (interpreter, x, y))


def litert_compiled(model: DenseModel, x: npt.NDArray[np.int8]) -> Runner:
    """`LiteRtRunCompiledModel` of the C API from a C loop, inputs and outputs copied."""
    path = _litert_folder() / "libLiteRt.so"
    if not path.exists():
        raise PeerUnavailableError("This version of LiteRT has no libLiteRt.so.")
    content = ctypes.create_string_buffer(build_tflite(model))
    handle = ctypes.c_void_p()
    status = driver().driver_compiled_open(
        str(path).encode(),
        content,
        len(content) - 1,
        model.inputs,
        model.outputs,
        ctypes.byref(handle),
    )
    if status != 0:
        raise PeerUnavailableError(f"LiteRT's C API could not open the model: status {status}.")
    x = np.ascontiguousarray(x)
    y = np.zeros((len(x), model.outputs), np.int8)
    loop = driver().driver_compiled

    def run(calls: int) -> int:
        return elapsed(loop(handle, x.ctypes.data, len(x), y.ctypes.data, calls, 1), "LiteRT")

    def check() -> npt.NDArray[np.int8]:
        run(len(x))
        return y

    return Runner("LiteRT, C API (LiteRtRunCompiledModel)", run, check, (content, handle, x, y))


def samples(batch: int, seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The batch that every learning step of the tables gets: x in 0..1, labels 0..9."""
    rng = np.random.default_rng(seed)
    x = rng.random((batch, WIDTHS[0]), np.float32)
    return x, rng.integers(0, WIDTHS[2], batch).astype(np.int64)


def start_weights() -> tuple[npt.NDArray[np.float32], ...]:
    """W1 (784, 256), b1, W2 (256, 10), b2 float32, the same for every learning peer."""
    rng = np.random.default_rng(1)
    inputs, hidden, outputs = WIDTHS
    w1 = rng.normal(0, inputs**-0.5, (inputs, hidden)).astype(np.float32)
    w2 = rng.normal(0, hidden**-0.5, (hidden, outputs)).astype(np.float32)
    return w1, np.zeros(hidden, np.float32), w2, np.zeros(outputs, np.float32)


_RATE = 0.01


def torch_step(batch: int) -> Runner:
    """torch as people write it: nn.Sequential, cross_entropy, backward, optim.SGD; eager."""
    torch: Any = need("torch", "train")
    torch.set_num_threads(1)
    w1, b1, w2, b2 = (torch.from_numpy(a.copy()) for a in start_weights())
    nn, cross_entropy = torch.nn, torch.nn.functional.cross_entropy
    net = nn.Sequential(nn.Linear(*WIDTHS[:2]), nn.ReLU(), nn.Linear(*WIDTHS[1:]))
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), (w1.T, b1, w2.T, b2), strict=True):
            parameter.copy_(value)
    x, y = (torch.from_numpy(a) for a in samples(batch))
    optimizer = torch.optim.SGD(net.parameters(), lr=_RATE)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        optimizer.step()

    def check() -> npt.NDArray[np.float32]:
        step()
        return np.ascontiguousarray(net[0].weight.detach().numpy().T)

    return Runner("torch, eager", loop(step), check)


def torch_lean_step(batch: int) -> Runner:
    """torch with autograd and nothing around it: functional calls, autograd.grad, one foreach."""
    torch: Any = need("torch", "train")
    torch.set_num_threads(1)
    functional = torch.nn.functional
    w1, b1, w2, b2 = (torch.from_numpy(a.copy()) for a in start_weights())
    leaves = [t.requires_grad_() for t in (w1.T.contiguous(), b1, w2.T.contiguous(), b2)]
    x, y = (torch.from_numpy(a) for a in samples(batch))

    def step() -> None:
        hidden = torch.relu(functional.linear(x, leaves[0], leaves[1]))
        loss = functional.cross_entropy(functional.linear(hidden, leaves[2], leaves[3]), y)
        gradients = torch.autograd.grad(loss, leaves)
        with torch.no_grad():
            torch._foreach_add_(leaves, gradients, alpha=-_RATE)

    def check() -> npt.NDArray[np.float32]:
        step()
        return np.ascontiguousarray(leaves[0].detach().numpy().T)

    return Runner("torch, autograd only", loop(step), check)


def torch_manual_step(batch: int) -> Runner:
    """torch without autograd: the backward pass by hand, into memory allocated beforehand."""
    torch: Any = need("torch", "train")
    torch.set_num_threads(1)
    # Weights lie as (inputs, outputs): measured, both products are faster than the other way round.
    w1, b1, w2, b2 = (torch.from_numpy(a.copy()) for a in start_weights())
    x, y = (torch.from_numpy(a) for a in samples(batch))
    target = torch.nn.functional.one_hot(y, WIDTHS[2]).float()
    hidden, delta = torch.empty(batch, WIDTHS[1]), torch.empty(batch, WIDTHS[1])
    logits, error = torch.empty(batch, WIDTHS[2]), torch.empty(batch, WIDTHS[2])
    x_t, hidden_t, w2_t = x.T, hidden.T, w2.T
    sum1, sum2 = torch.empty(WIDTHS[1]), torch.empty(WIDTHS[2])
    rate = _RATE / batch
    gate = torch.ops.aten.threshold_backward.grad_input

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def many(calls: int) -> int:
        start = time.perf_counter_ns()
        for _ in range(calls):
            torch.addmm(b1, x, w1, out=hidden)
            hidden.relu_()
            torch.addmm(b2, hidden, w2, out=logits)
            torch.softmax(logits, 1, out=error)
            error.sub_(target)
            torch.mm(error, w2_t, out=delta)
            gate(delta, hidden, 0, grad_input=delta)
            w2.addmm_(hidden_t, error, alpha=-rate)
            b2.sub_(torch.sum(error, 0, out=sum2), alpha=rate)
            w1.addmm_(x_t, delta, alpha=-rate)
            b1.sub_(torch.sum(delta, 0, out=sum1), alpha=rate)
        return time.perf_counter_ns() - start

    def check() -> npt.NDArray[np.float32]:
        many(1)
        return np.array(w1.numpy())

    return Runner("torch, backward pass by hand", many, check)


def numpy_step(batch: int) -> Runner:
    """numpy float32, the backward pass by hand, products into memory allocated beforehand."""
    w1, b1, w2, b2 = (a.copy() for a in start_weights())
    x, y = samples(batch)
    target = np.eye(WIDTHS[2], dtype=np.float32)[y]
    hidden, delta = (
        np.empty((batch, WIDTHS[1]), np.float32),
        np.empty((batch, WIDTHS[1]), np.float32),
    )
    error = np.empty((batch, WIDTHS[2]), np.float32)
    gradient1, gradient2 = np.empty_like(w1), np.empty_like(w2)
    x_t, hidden_t, w2_t = x.T, hidden.T, w2.T
    rate = np.float32(_RATE / batch)

    def step() -> None:
        np.dot(x, w1, out=hidden)
        np.add(hidden, b1, out=hidden)
        np.maximum(hidden, 0, out=hidden)
        np.dot(hidden, w2, out=error)
        np.add(error, b2, out=error)
        np.subtract(error, error.max(1, keepdims=True), out=error)
        np.exp(error, out=error)
        np.divide(error, error.sum(1, keepdims=True), out=error)
        np.subtract(error, target, out=error)
        np.multiply(error, rate, out=error)
        np.dot(error, w2_t, out=delta)
        np.multiply(delta, hidden > 0, out=delta)
        np.dot(hidden_t, error, out=gradient2)
        np.subtract(w2, gradient2, out=w2)
        np.subtract(b2, error.sum(0), out=b2)
        np.dot(x_t, delta, out=gradient1)
        np.subtract(w1, gradient1, out=w1)
        np.subtract(b1, delta.sum(0), out=b1)

    def check() -> npt.NDArray[np.float32]:
        step()
        return w1.copy()

    return Runner("numpy, backward pass by hand", loop(step), check)
