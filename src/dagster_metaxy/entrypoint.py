"""An entrypoint for Metaxy: named in metaxy.toml, it shows Metaxy's own `mx` command the features
that components declare.

    entrypoints = ["dagster_metaxy.entrypoint"]

Metaxy imports the modules it names and looks at what they registered.
"""

from __future__ import annotations

from pathlib import Path

import metaxy as mx  # noqa: TID253 - imported by Metaxy, never by Dagster's registry

from dagster_metaxy.components._graph import load_features

_config = mx.MetaxyConfig.get().config_file
load_features(_config.parent if _config else Path.cwd())
