"""The public operations, one in each module."""
