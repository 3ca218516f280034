"""Run the command line as ``python -m anomscan``."""

from anomscan.cli import main

main()
