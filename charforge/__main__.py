"""``python -m charforge`` is the command line."""

from charforge.cli import main

main()
