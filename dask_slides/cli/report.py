"""``dask-slides report``: write the report of a job."""

from __future__ import annotations

import json

import click

from dask_slides.cli.exit_codes import report_errors
from dask_slides.cli.options import json_option
from dask_slides.cohort.report import write_report


@click.command("report")
@click.argument("job")
@json_option
@report_errors
def command(job: str, as_json: bool) -> None:
    """Write JOB/report.html, one page that shows all slides of a run.

    The command run writes it at its end. Slides that failed or that differ from the others come
    first.
    """
    path = write_report(job)
    click.echo(json.dumps({"path": path}) if as_json else path)
