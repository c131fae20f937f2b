"""`python -m permafrost <verb>`: the installed command `permafrost`."""

from permafrost.cli import main

main()
