"""``dask-slides verify``: check that a store is complete and unchanged."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from dask_slides.cli.exit_codes import report_errors
from dask_slides.cli.info import status_text
from dask_slides.cli.options import json_option
from dask_slides.plots.pictures import bytes_text
from dask_slides.writers.store.verify import verify


@click.command("verify")
@click.argument("store")
@json_option
@report_errors
def command(store: str, as_json: bool) -> None:
    """Read all of STORE and check that it is complete and unchanged."""
    found = verify(store)
    if as_json:
        click.echo(json.dumps(asdict(found)))
        return
    size = f"{found.files:,} files, {bytes_text(found.nbytes)}"
    click.echo(f"{store}: {size}, all as written; shards: {status_text(found.statuses)}")
