"""Seeds that once failed, what they found, and the simulation they belong to."""

from __future__ import annotations

from typing import Final

REGRESSIONS: Final = (
    ("projector", 71, "two events of one block that kill the process: the second one was never found"),
    ("projector", 107, "two such events that come in turns: each one's verdict was overwritten by the other's trial"),
    ("projector", 191, "a delivery lost on the way to the holder of a pin was written after younger ones"),
    ("projector", 676, "what was asked for while stopping came to nobody, and again after younger ones"),
    ("projector", 1327, "a note that nothing will strike out any more kept an event that kills from being found"),
    ("projector", 1391, "the note on one such event kept another, which came first each time, from being found"),
    ("projector", 6240, "a note on messages that came again out of order held none of them"),
    ("projector", 484, "deliveries to a connection that was gone, likewise"),
    (
        "projector",
        110239,
        "a batch held for long was taken for silence: what was asked for next came late",
    ),
    ("projector", 536026, "stopping asked again for each answer, never came to an end, and left a message in hand"),
)
