"""Bugs that a change may introduce, and the test that finds each; checked by `make mutations`."""

from __future__ import annotations

from tests.mutations.conflicts import CONFLICTS
from tests.mutations.connections import CONNECTIONS
from tests.mutations.consumers import CONSUMERS
from tests.mutations.daemons import DAEMONS
from tests.mutations.files import FILES
from tests.mutations.identity import IDENTITY
from tests.mutations.library import LIBRARY
from tests.mutations.retries import RETRIES
from tests.mutations.streams import STREAMS

MUTATIONS = (*CONFLICTS, *CONNECTIONS, *CONSUMERS, *DAEMONS, *FILES, *IDENTITY, *LIBRARY, *RETRIES, *STREAMS)
