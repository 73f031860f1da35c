"""Benchmarks: `lastax bench`."""

from lastax.cmd.bench._group import bench as bench

__all__ = ["bench"]
