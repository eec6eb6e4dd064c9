"""Pictures of results: PNG bytes, HTML of notebooks and pages, matplotlib axes."""
