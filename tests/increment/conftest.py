from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import metaxy as mx
import pytest
from worlds import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    mx.MetaxyConfig.reset()
    with mx.FeatureGraph().use():
        yield World(tmp_path)
    mx.MetaxyConfig.reset()
