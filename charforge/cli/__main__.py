"""``python -m charforge.cli``: the command line where the installed command is not on the path."""

from charforge.cli import main

main()
