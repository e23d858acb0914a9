"""`python -m consumers` is `noetl-events`."""

from consumers.cli import main

main()
