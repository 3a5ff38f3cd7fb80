"""`python -m zgedge`: the command line, where the command itself is not on the path."""

from zgedge.cli import main

main()
