"""The report of a run: what was found, as figures, tables and checks on one page."""
