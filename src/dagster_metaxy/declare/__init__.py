"""From YAML to Metaxy and Dagster definitions: features, columns, partitions, references, errors.

Importing this package imports no Metaxy: the modules load it when a feature is registered.
"""
