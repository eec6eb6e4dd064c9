"""The process and the scheduler: computing graphs, clients, memory, threads, forks."""
