"""Seeds that once failed, the bugs they found, and the simulations they belong to."""

from __future__ import annotations

from typing import Final

REGRESSIONS: Final = (
    ("projector", 71, "two events of one block that kill the process: the second one was never found"),
    ("projector", 107, "two such events that come in turns: each one's verdict was overwritten by the other's trial"),
    (
        "projector",
        196,
        "a verdict, or the next trial over it, kept the next event of its block that kills from being found",
    ),
    ("projector", 191, "a delivery lost on the way to the holder of a pin was written after younger ones"),
    ("projector", 676, "what was asked for while stopping came to nobody, and again after younger ones"),
    ("projector", 1327, "a note that nothing will strike out any more kept an event that kills from being found"),
    ("projector", 1771, "a batch held for long was taken for silence: what was asked for next came late"),
    ("projector", 1391, "the note on one such event kept another, which came first each time, from being found"),
    ("projector", 6240, "a note on messages that came again out of order held none of them"),
    ("projector", 484, "deliveries to a connection that was gone, likewise"),
    (
        "projector",
        110239,
        "a batch held for long was taken for silence: what was asked for next came late",
    ),
    ("projector", 536026, "stopping asked again for each answer, never came to an end, and left a message in hand"),
    (
        "projector in a storm",
        583,
        "a replica acknowledged behind what another one had set an edited consumer back for",
    ),
    (
        "projector in a storm",
        5000197,
        "the last messages, skipped by an edit that was undone, were delivered only after a later one",
    ),
    (
        "projector in a storm",
        6000072,
        "a projector that stopped stored what an edited consumer had delivered, before what the edit had skipped",
    ),
    ("spool", 0, "progress that a full disk did not take ended the handing over, and every emit failed from then on"),
    ("spool", 43, "likewise a rejected event that a full disk did not take"),
    ("spool", 54, "a folder whose disk refused to open it stayed locked for as long as the process lived"),
    ("spool", 114, "an emit that needed room on a disk that refused was cancelled, and no caller had cancelled it"),
    ("spool", 2, "a power cut took the folder with all that was synced in it: its name was not"),
    ("spool", 38, "what was kept aside from behind a damaged record was not synced before the segment went"),
    ("spool", 205, "what was appended behind a damaged record, unnoticed until the next segment, was lost with it"),
    ("spool", 82, "a damaged length was taken for a torn tail, and what stood behind it thrown away"),
    ("spool", 120, "half a line of rejected events swallowed the next one; a power cut took the whole file"),
    ("spool", 62, "what a stream had lost in an outage was hidden by what the spool itself handed over next"),
    ("spool", 2008552, "what a stream lost before it had answered once was never noticed"),
    ("spool in a storm", 39, "a second close of a spool was cancelled, and no caller had cancelled it"),
    (
        "spool in a storm",
        2267,
        "what was lost while a disk delayed the note of a rejected event was hidden by the look after",
    ),
    (
        "spool in a storm",
        4605,
        "what was lost while a slow disk kept us from looking was hidden by what was stored next",
    ),
)
