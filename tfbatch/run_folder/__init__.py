"""A run folder is the truth about a run: lock, journal, resolved settings, fingerprint, results."""
