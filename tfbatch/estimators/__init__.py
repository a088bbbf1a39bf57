"""Pure mathematics on measurements: no TensorFlow, no files."""
