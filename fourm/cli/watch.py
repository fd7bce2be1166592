"""`fourm watch`: the curves of runs in the terminal, or on a page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fourm.report.runs import Run


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="RUN...")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write one page with all curves instead.")
@click.option("-f", "--follow", is_flag=True, help="Draw again while a run goes on.")
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="With --follow: how often."
)
@click.option(
    "--smooth", type=click.IntRange(min=1), default=1, show_default=True, help="Running mean of so many records."
)
def watch(runs: tuple[Path, ...], html: Path | None, follow: bool, seconds: float, smooth: int) -> None:
    """Show how training runs go.

    RUN is the output folder of a run, its log, or a folder of several; all of them are drawn side by side.
    """
    from fourm.report.runs import load_runs

    if html is not None:
        from fourm.report.curves import page_of

        click.echo(page_of(load_runs(runs), smooth).save(html))
        return
    from rich.console import Console

    console = Console()
    if not follow:
        console.print(_drawn(load_runs(runs), console.width, smooth))
        return
    from rich.live import Live

    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while True:
            loaded = load_runs(runs)
            live.update(_drawn(loaded, console.width, smooth), refresh=True)
            if all(run.complete for run in loaded):
                break
            time.sleep(seconds)
    console.print(_drawn(loaded, console.width, smooth))


def _drawn(runs: list[Run], width: int, smooth: int) -> RenderableType:
    from fourm.report.terminal import drawn

    return drawn(runs, width, smooth)
