"""Evaluation: scores and measures of splits, robustness, cost, comparison of runs."""
