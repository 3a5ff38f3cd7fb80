"""Room for classes that get their names later, and for samples that wait for their labels."""

from __future__ import annotations

import math
from dataclasses import replace

from zgedge import network as net
from zgedge.arena import names_blob
from zgedge.errors import BudgetError, UsageError
from zgedge.network import Network


def roomy(network: Network, names: tuple[str, ...], spare: int, pending: int) -> Network:
    """A network with room for `spare` more classes and `pending` waiting samples."""
    head = network.layers[-1]
    if network.classes + spare > net.MAX_CLASSES:
        raise UsageError(f"{network.classes} and {spare} classes are more than {net.MAX_CLASSES}.")
    if spare:
        features = network.names_bytes - len(names_blob(names))
        network = replace(
            network, classes=network.classes + spare, known=network.classes,
            layers=(*network.layers[:-1], replace(head, outputs=head.outputs + spare)),
            names_bytes=len(names_blob(names, spare=spare)) + features,
        )  # fmt: skip
    return replace(network, pending=pending)


def within(network: Network, size: int) -> Network:
    """The network with no more remembered samples than keep its file within `size` bytes: what was
    planned is packed anew once it is trained, and rows for spare classes are then in more places.

    Raises BudgetError where not one would be left.
    """
    while (over := network.file_bytes - size) > 0:
        left = network.replay_samples - math.ceil(over / max(1, network.replay_sample_bytes))
        if left < 1:
            raise BudgetError(
                f"{size:,} bytes are too few for what this network learns with.",
                f"A budget of {network.file_bytes:,} bytes is enough.",
                smallest=network.file_bytes,
            )
        network = replace(network, replay_samples=left)
    return network


def room_for(network: Network, names: tuple[str, ...], spare: int, pending: int) -> int:
    """Most bytes that `roomy` adds, however the samples that wait are packed in the end."""
    if not spare and not pending:
        return 0
    made = roomy(network, names, spare, pending)
    wider = pending * (made.replay_values - made.replay_stride)
    return made.file_bytes - network.file_bytes + wider
