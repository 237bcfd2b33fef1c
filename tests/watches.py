"""The sensor of a collection, tick by tick, with the runs that it asks for."""

from __future__ import annotations

from typing import Any

import dagster as dg
from projects import Project


class Watch:
    """The sensor of a project, as a daemon evaluates it."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.cursor: str | None = None

    def tick(self) -> Any:
        defs = self.project.load()
        sensor = defs.resolve_sensor_def("clips_sensor")
        with dg.build_sensor_context(
            instance=self.project.instance,
            cursor=self.cursor,
            definitions=defs,
            resources=dict(defs.resources or {}),
        ) as context:
            data = sensor.evaluate_tick(context)
        self.cursor = data.cursor or self.cursor
        return data

    def run(self, data: Any) -> dg.ExecuteInProcessResult:
        """The only run that a tick asks for, tagged as the daemon does."""
        (request,) = data.run_requests
        job = self.project.load().resolve_job_def("clips")
        return job.execute_in_process(
            instance=self.project.instance,
            run_config=request.run_config,
            tags={**request.tags, "dagster/run_key": request.run_key},
            raise_on_error=False,
        )
