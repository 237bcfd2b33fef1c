"""A table of videos in SQLite, as projects of tests list it."""

from __future__ import annotations

import sqlite3
from typing import Any

from projects import Project


class VideoTable:
    """A table in a project whose resource `database` opens it."""

    columns = "id, location"

    def __init__(self, project: Project) -> None:
        self.project = project
        self.path = project.root / "videos.db"
        project.write(
            "resources/defs.yaml",
            f"""
            type: dagster_metaxy.ResourcesComponent
            attributes:
              resources:
                database:
                  type: dagster_metaxy.resources.DatabaseResource
                  url: sqlite:///{self.path}
            """,
        )
        self.execute(f"CREATE TABLE videos ({self.columns})")

    def execute(self, statement: str, *values: Any) -> None:
        """Run a statement."""
        with sqlite3.connect(self.path) as connection:
            connection.execute(statement, values)
        connection.close()

    def add(self, *values: Any) -> None:
        """Insert a row."""
        self.execute(f"INSERT INTO videos VALUES ({', '.join('?' * len(values))})", *values)
