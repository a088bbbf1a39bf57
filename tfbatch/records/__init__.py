"""TFRecord files with a manifest: written once, checked at every reading.

The writer and the reader share the manifest and the codec, and never import each other.
"""
