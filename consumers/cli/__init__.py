"""
The command line `noetl-events`.

Exit codes: 0 done; 1 not done, and said why; 2 wrong arguments, settings or input; 130 interrupted.
"""

from consumers.cli.app import main

__all__ = ["main"]
