"""What several commands show alike."""

import typer


def help_without_command(context: typer.Context) -> None:
    """For a group called without one of its commands: what there is, and no scolding."""
    if context.invoked_subcommand is None:
        print(context.get_help())
