"""The training loop of every job: exact losses, exact resume, one Trainer for all objectives."""
