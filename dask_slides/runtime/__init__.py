"""The process and the scheduler: running graphs, clients, buffers, threads, forks."""
