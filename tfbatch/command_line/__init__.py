"""What the commands share: flags, exit codes, signals, and the terminal."""
