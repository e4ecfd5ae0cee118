"""Intervals, tests, comparisons and what every metric means; knows no model."""
