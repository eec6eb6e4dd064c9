"""Sources computed from other sources, and the tasks that compute their blocks."""
