"""Computing graphs on the active scheduler; clients, memory, threads and forks."""
