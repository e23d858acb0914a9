"""Run `noetl-events` as `python -m consumers`."""

from consumers.cli.app import main

main()
