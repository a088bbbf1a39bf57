"""What hardware and gradient say before any search, for anybody's model and data.

One function a file; each opens a worker, measures there, and returns a frozen result.
"""
