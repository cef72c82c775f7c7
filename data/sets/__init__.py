"""Readers of the datasets: a module a set or kind of set, each with its `prepare` function."""
