"""What is wrong with partition keys; apart from `partitions`, since worker processes load no Dagster."""


class PartitionError(Exception):
    """A sample that belongs to no partition."""


class PatternError(PartitionError):
    """A path in which the pattern of the partitions finds no key."""
