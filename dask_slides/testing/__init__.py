"""Sample slides for tests and examples."""
