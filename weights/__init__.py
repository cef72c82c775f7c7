"""Pretrained and published weights: where they come from, fetched, verified and read safely."""
