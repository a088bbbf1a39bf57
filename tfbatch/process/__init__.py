"""What the system does to this process: limits, memory, signals, and how a failure reads."""
