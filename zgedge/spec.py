"""A network as one line of text: what `--network` takes, and what a plan prints.

Items stand in the order in which the layers do, with spaces between them:

    c3x16       convolution, kernel 3, 16 channels; c5/2x8 steps by 2, c3vx16 pads nothing
    c3x16+      ... and its own input is added; c3x16+1 adds the input of the layer before
    dw3/2       depthwise convolution, kernel 3, stride 2; takes `v` and `+` as well
    p2          max pool of 2 by steps of 2, whole windows only; p3/2s pads as convolutions do
    m           mean over the whole picture, the last item before the layers behind the trunk
    s64:24/4    sparse layer, 64 units of fan-in 24 in blocks of 4 neighbours; s64:24 has no blocks
    d32         dense layer of 32 units
    s:24/4, d   the head, with a unit for each class; a dense head need not be written
    b16         a device learns in steps of 16 samples
    r300, r300:8  it remembers 300 samples, at 4 bits a value, or at 1, 2 or 8; r300:4/2 of a
                picture without a trunk the means of 2 x 2 places
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from zgedge import network as net
from zgedge.errors import UsageError
from zgedge.network import Layer, Network, TrunkLayer

MOST_ITEMS = net.MAX_TRUNK + net.MAX_LAYERS + 2
USUAL_BITS = 4  # of a remembered value
MOST_DIGITS = 5  # of a number: none of a network that fits anywhere has more
_N = rf"(\d{{1,{MOST_DIGITS}}})"
_WINDOW = rf"{_N}(?:/{_N})?([vs]?)"
_ADD = r"(?:(\+)(\d{0,2}))?"
_CONV = re.compile(rf"c{_WINDOW}x{_N}{_ADD}")
_DEPTHWISE = re.compile(rf"dw{_WINDOW}{_ADD}")
_POOL = re.compile(rf"p{_WINDOW}")
_SPARSE = re.compile(rf"s{_N}?:{_N}(?:/{_N})?")
_DENSE = re.compile(rf"d{_N}?")
_BATCH = re.compile(rf"b{_N}")
_REPLAY = re.compile(rf"r{_N}(?::{_N})?(/2)?")
GRAMMAR = (
    "c3x16 is a convolution, dw3 a depthwise one, p2 a max pool, m the mean, s64:24/4 a sparse "
    "layer, d32 a dense one; docs/planner.md has all of it."
)


@dataclass(frozen=True)
class Spec:
    """What a text says; `batch` and `replay` (samples, bits, pool): None where silent."""

    trunk: tuple[TrunkLayer, ...]
    layers: tuple[Layer, ...]
    batch: int | None = None
    replay: tuple[int, int, int] | None = None


def parse(text: str, shape: tuple[int, int, int], classes: int) -> Spec:
    """The layers of a text, for pictures of `shape` (height, width, channels).

    Raises UsageError, with the item and what is wrong with it.
    """
    items = text.split()
    if len(items) > MOST_ITEMS:
        raise UsageError(f"A network of {len(items)} items has more than {MOST_ITEMS}.", GRAMMAR)
    reader = _Reader(shape, classes)
    for i, item in enumerate(items, 1):
        try:
            reader.item(item)
        except ValueError as e:
            raise UsageError(f"Item {i} of the network, {item!r}: {e}.", GRAMMAR) from e
    if reader.width is not None:
        reader.layer(net.dense(reader.inputs, classes))
    return Spec(tuple(reader.trunk), tuple(reader.layers), reader.batch, reader.replay)


def _no_layer(item: str) -> str:
    long = re.search(rf"\d{{{MOST_DIGITS + 1}}}", item)
    return "it is no layer" if long is None else f"a number has more than {MOST_DIGITS} digits"


def check_words(text: str) -> None:
    """Raise UsageError where an item of a text is none, whatever the data are."""
    forms = (_CONV, _DEPTHWISE, _POOL, _SPARSE, _DENSE, _BATCH, _REPLAY)
    for i, item in enumerate(text.split(), 1):
        if item != "m" and not any(form.fullmatch(item) for form in forms):
            raise UsageError(f"Item {i} of the network, {item!r}: {_no_layer(item)}.", GRAMMAR)


class _Reader:
    """Takes items one by one. `width` is what comes out so far, None behind the head."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        self.shape, self.classes = shape, classes
        self.trunk: list[TrunkLayer] = []
        self.layers: list[Layer] = []
        self.width: int | None = shape[0] * shape[1] * shape[2]
        self.batch: int | None = None
        self.replay: tuple[int, int, int] | None = None

    @property
    def inputs(self) -> int:
        if self.width is None:
            raise ValueError("nothing follows the head")
        return self.width

    def layer(self, layer: Layer) -> None:
        if len(self.layers) == net.MAX_LAYERS:
            raise ValueError(f"at most {net.MAX_LAYERS} layers learn")
        self.layers.append(layer)
        self.width = layer.outputs

    def item(self, item: str) -> None:
        if match := _SPARSE.fullmatch(item):
            units, fan_in, block = match.groups()
            self._behind(units, int(fan_in), int(block or 1))
        elif match := _DENSE.fullmatch(item):
            self._behind(match[1], None, 1)
        elif match := _BATCH.fullmatch(item):
            self.batch = self._once(self.batch, int(match[1]), 1, net.MAX_BATCH)
        elif match := _REPLAY.fullmatch(item):
            bits, pool = int(match[2] or USUAL_BITS), 2 if match[3] else 0
            if bits not in net.REPLAY_BITS:
                raise ValueError("a value is remembered at 1, 2, 4 or 8 bits")
            already = None if self.replay is None else self.replay[0]
            self.replay = self._once(already, int(match[1]), 1, net.MAX_REPLAY), bits, pool
        else:
            self._picture(item)

    def _once(self, already: int | None, value: int, least: int, most: int) -> int:
        if already is not None:
            raise ValueError("it is said twice")
        if not least <= value <= most:
            raise ValueError(f"it is outside {least}..{most:,}")
        return value

    def _behind(self, units: str | None, fan_in: int | None, block: int) -> None:
        outputs = self.classes if units is None else int(units)
        inputs = self.inputs
        if fan_in is None:
            self.layer(net.dense(inputs, outputs))
        else:
            self.layer(net.sparse(inputs, outputs, fan_in, block))
        if units is None:
            self.width = None

    def _picture(self, item: str) -> None:
        if self.layers:
            raise ValueError("layers of pictures come before the others")
        if self.trunk and self.trunk[-1].kind == net.MEAN_POOL:
            raise ValueError("the mean is the last layer of the trunk")
        if len(self.trunk) == net.MAX_TRUNK:
            raise ValueError(f"a trunk has at most {net.MAX_TRUNK} layers")
        at, out = len(self.trunk), self.trunk[-1].out_shape if self.trunk else self.shape
        if match := _CONV.fullmatch(item):
            kernel, stride, padding, channels, plus, back = match.groups()
            layer = net.conv(
                out, int(channels), int(kernel), int(stride or 1), same=padding != "v",
                add=_added(at, plus, back),
            )  # fmt: skip
        elif match := _DEPTHWISE.fullmatch(item):
            kernel, stride, padding, plus, back = match.groups()
            layer = net.depthwise(
                out, int(kernel), int(stride or 1), same=padding != "v", add=_added(at, plus, back)
            )
        elif match := _POOL.fullmatch(item):
            kernel, stride, padding = match.groups()
            layer = net.max_pool(out, int(kernel), int(stride or 2), same=padding == "s")
        elif item == "m":
            layer = net.mean_pool(out)
        else:
            raise ValueError(_no_layer(item))
        if layer.add is not None:
            added = self.trunk[layer.add].shape if layer.add < at else layer.shape
            if added != layer.out_shape:
                raise ValueError(
                    f"a picture of {added} cannot be added to one of {layer.out_shape}"
                )
        self.trunk.append(layer)
        self.width = layer.outputs


def _added(at: int, plus: str | None, back: str | None) -> int | None:
    if plus is None:
        return None
    distance = int(back or 0)
    if distance > at:
        raise ValueError(f"it has no {distance} layers before it")
    return at - distance


def spec_of(network: Network) -> str:
    """The text of a network: `parse` gives its layers again."""
    words = [_word(layer, i) for i, layer in enumerate(network.trunk)]
    for layer in network.layers[:-1]:
        words.append(_behind_word(layer, str(layer.outputs)))
    head = network.layers[-1]
    if head.kind != net.DENSE or not words:
        words.append(_behind_word(head, ""))
    if network.learning:
        words.append(f"b{network.batch}")
        if network.replay_samples:
            bits = network.replay_bits
            words.append(
                f"r{network.replay_samples}"
                + (f":{bits}" if bits != USUAL_BITS else "")
                + ("/2" if network.replay_pool else "")
            )
    return " ".join(words)


def _behind_word(layer: Layer, units: str) -> str:
    if layer.kind == net.DENSE:
        return f"d{units}"
    return f"s{units}:{layer.width}" + (f"/{layer.block}" if layer.block > 1 else "")


def _word(layer: TrunkLayer, i: int) -> str:
    if layer.kind == net.MEAN_POOL:
        return "m"
    letter = {net.CONV: "c", net.DEPTHWISE: "dw", net.MAX_POOL: "p"}[layer.kind]
    pool = layer.kind == net.MAX_POOL
    word = f"{letter}{layer.kernel}"
    if layer.stride != (2 if pool else 1):
        word += f"/{layer.stride}"
    if pool == layer.same:
        word += "s" if pool else "v"
    if layer.kind == net.CONV:
        word += f"x{layer.channels}"
    if layer.add is not None:
        word += "+" if i == layer.add else f"+{i - layer.add}"
    return word
