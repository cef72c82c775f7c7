"""Datasets: downloaded, verified, unpacked, indexed, read."""
