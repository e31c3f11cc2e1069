"""Metrics, one file each: the callback that logs it and the torchmetrics it needs beyond torchmetrics' own.

A metric has one name: `box_map` is this folder's `box_map.py`, `conf/metric/box_map.yaml` and the config's
`callbacks.box_map`.
"""
