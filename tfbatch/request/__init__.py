"""What a user asks for, resolved and checked before any work: model and data, search, execution."""
