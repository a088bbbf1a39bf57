"""One trial and all trials of a run, as values: no TensorFlow, no process, nothing that runs."""
