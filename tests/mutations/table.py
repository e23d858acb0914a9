"""Bugs somebody might plant, and the test that finds each: kept true by `make mutations`."""

from __future__ import annotations

from tests.mutations.daemons import DAEMONS
from tests.mutations.library import LIBRARY

MUTATIONS = (*DAEMONS, *LIBRARY)
