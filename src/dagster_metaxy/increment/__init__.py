"""Plan, compute, write, clean: bringing one feature up to date with its upstream.

Knows Metaxy and the engines; nothing of Dagster or of video.
"""
