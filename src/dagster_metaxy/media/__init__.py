"""Pure functions over one media file: who it is, its frames, its sound.

Nothing here knows Dagster or Metaxy, and each module is usable alone
(`from dagster_metaxy.media import identify, frames, audio`).
They need the `video` extra: `pip install "dagster-metaxy[video]"`.
"""
