"""One store: its files, its manifest, and the transaction that publishes it."""
