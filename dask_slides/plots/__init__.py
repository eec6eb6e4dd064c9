"""Drawing of results: PNG bytes, HTML for notebooks and pages, matplotlib axes."""
