"""An entrypoint for Metaxy: named in metaxy.toml, it shows Metaxy's own `mx` command the features
that components declare.

    entrypoints = ["dagster_metaxy.entrypoint"]

Metaxy imports the modules it names and looks at what they registered.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import metaxy as mx  # noqa: TID253 - imported by Metaxy, never by Dagster's registry

from dagster_metaxy.components._graph import load_features

_config = mx.MetaxyConfig.get()
# Components may use what Python classes declare, whatever the order in metaxy.toml.
for _module in _config.entrypoints:
    if _module != __name__:
        import_module(_module)
load_features(_config.config_file.parent if _config.config_file else Path.cwd())
