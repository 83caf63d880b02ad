"""`python -m alexnet`: the command line."""

from .cli import main

main()
