"""The description of a planted bug."""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    """
    A planted bug.

    Args:
        bug: name of the bug.
        file: path of the file, relative to the root of the tree.
        code: original text, which is unique in the file.
        planted: replacement of the text.
        test: name of the test that fails with the bug, in pytest's notation.

    """

    bug: str
    file: str
    code: str
    planted: str
    test: str
