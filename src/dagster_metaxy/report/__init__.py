"""What Dagster shows of an update: metadata, previews, checks."""
