"""What the processes of test_remote_stores.py do; importable, as they are made from nothing."""

import os

import durable_work as work


def write_until(step, environment, kind, source, url, options):
    """Write, and be killed by the system just before the `step`th object is put or deleted."""
    os.environ.update(environment)
    import obstore

    counted = work.killing_at(step)
    for name in ("put", "delete", "copy"):
        setattr(obstore, name, counted(getattr(obstore, name)))
    work.write(kind, source, url, **options)


def race(environment, *args):
    """Write at the same time as another process, and say how it went."""
    os.environ.update(environment)
    work.race(*args)
