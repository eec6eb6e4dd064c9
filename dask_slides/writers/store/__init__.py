"""One store: its files, manifest, and the transaction that publishes it."""
