"""What several examples share: command line, resuming, devices, progress, report."""
