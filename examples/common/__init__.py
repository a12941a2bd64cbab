"""What the examples share: command line, batches, resuming, progress, report."""
