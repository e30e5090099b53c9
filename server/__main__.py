"""`python -m server`: the command `server`."""

from server.cli import main

main()
