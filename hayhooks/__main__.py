"""``python -m hayhooks``."""

from hayhooks.cli import main

main(prog_name="hayhooks")
