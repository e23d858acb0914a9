"""
The command line `noetl-events`.

Exit codes: 0 success; 1 failure, with a reason on standard error; 2 wrong arguments, settings or input; 130
interrupted.
"""

from consumers.cli.app import main

__all__ = ["main"]
