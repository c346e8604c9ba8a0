"""Composition root of the index function: settings → handler."""

from __future__ import annotations

import gc

gc.disable()  # importing leaves no garbage, and looking for it takes 7 % of a cold start

import os
import random

from aws_lambda_powertools import Logger, Metrics
from snapshot_restore_py import register_after_restore

from likeness.adapters.index import open_index
from likeness.settings import Settings
from likeness.stopwatch import Stopwatch

from .handler import Handler
from .indexers import open_indexers

settings = Settings.from_env(os.environ)
# a batch that fails at once makes room for the next: the whole queue would use up its tries
index = open_index(settings, patient=True)
register_after_restore(index.reconnect)
register_after_restore(random.seed)  # or all that one snapshot becomes would wait alike
watch = Stopwatch()
handler = Handler(
    open_indexers(settings, index, watch.stage),
    Logger(service="index"),
    Metrics(namespace=settings.metrics_namespace, service="index"),
    watch,
)

gc.freeze()
gc.enable()
