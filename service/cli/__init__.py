"""The program `rootstock`. Each command is a thin skin over one module."""

from service.cli import files, importing, remote, serving, training
from service.cli.program import main

for part in (serving, training, remote, files, importing):
    for command in part.COMMANDS:
        main.add_command(command)

__all__ = ["main"]
