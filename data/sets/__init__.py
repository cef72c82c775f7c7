"""Readers of the datasets: one module per set or kind of set, each with its `prepare` function."""
