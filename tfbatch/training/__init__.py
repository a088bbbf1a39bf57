"""One trial: a configuration becomes a compiled model, a fit and an outcome."""
