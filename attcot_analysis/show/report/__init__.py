"""The report of one run and the comparison of several."""
