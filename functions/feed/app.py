"""Composition root of the feed function: settings → handler."""

from __future__ import annotations

import os

from aws_lambda_powertools import Logger

from likeness.adapters.sqs import SqsQueue
from likeness.settings import Settings

from .handler import Handler

settings = Settings.from_env(os.environ)
handler = Handler(SqsQueue(settings.queue_url or ""), settings, Logger(service="feed"))
