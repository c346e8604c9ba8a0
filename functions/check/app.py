"""Composition root of the check function: settings → handler."""

from __future__ import annotations

import os

from aws_lambda_powertools import Logger

from likeness.adapters.deployment import Deployment
from likeness.adapters.index import open_index
from likeness.settings import Settings

from .handler import Handler

settings = Settings.from_env(os.environ)
handler = Handler(Deployment(), lambda: open_index(settings), settings, Logger(service="check"))
