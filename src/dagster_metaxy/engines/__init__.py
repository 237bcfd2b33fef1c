"""Where computes run."""
