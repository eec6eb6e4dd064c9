"""What the processes of test_remote_stores.py do; importable, as they are made from nothing."""

import os
import signal

import durable_work as work


def write_until(step, environment, kind, source, url, options):
    """Write, and be killed by the system just before the `step`th object is put or deleted."""
    os.environ.update(environment)
    import obstore

    count = 0

    def counted(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for name in ("put", "delete", "copy"):
        setattr(obstore, name, counted(getattr(obstore, name)))
    work.write(kind, source, url, **options)


def race(environment, *args):
    """Write at the same time as another process, and say how it went."""
    os.environ.update(environment)
    work.race(*args)
