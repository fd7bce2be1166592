"""What all commands that run a recipe share."""

from __future__ import annotations

from typing import Any

import click


def recipe_options(command: Any) -> Any:
    """Arguments and options of all commands that run a recipe."""
    command = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(command)
    command = click.argument("recipe", metavar="RECIPE")(command)
    return click.option("--print", "show", is_flag=True, help="Show the resolved recipe and stop.")(command)


def show_recipe(recipe: Any) -> None:
    """Print a recipe as YAML."""
    import yaml

    from fourm import config as configs

    click.echo(yaml.safe_dump(configs.to_dict(recipe), sort_keys=False).rstrip())
