"""The answer of a run: found from its trials, stored and shown. No TensorFlow, no process."""
