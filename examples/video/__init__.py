"""Training on a folder of videos or volumes, and predictions for others."""
