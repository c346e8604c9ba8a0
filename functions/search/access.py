"""Who calls, as API Gateway's authorizer says it: nothing that a caller sends is believed.

The request's context is made by the gateway. Claims come from a Cognito authorizer or another JWT
authorizer, plain values from a Lambda authorizer, facts about the caller from IAM
(API Gateway guide, "Lambda proxy integrations", `requestContext`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from likeness.errors import NotAWriter, NoTenant
from likeness.settings import Settings
from likeness.tenants import is_name

# What IAM itself says of a caller. The identity also holds what the caller says: its user agent.
_IAM_FACTS = ("accountId", "caller", "cognitoIdentityId", "user")
_GROUPS = "cognito:groups"
_BETWEEN = re.compile(r"[, ]+")

Context = Mapping[str, Any]


def context_of(request: Request) -> Context:
    """The gateway's request context; empty where there is no gateway."""
    event = request.scope.get("aws.event") or {}
    return event.get("requestContext") or {}


def check_writer(context: Context, settings: Settings) -> None:
    """Raises NotAWriter, naming what is needed, for a caller who may only search."""
    key = _part(context, "identity").get("apiKeyId")
    if settings.write_keys and key not in settings.write_keys:
        raise NotAWriter("this needs the write key; the key that was sent may only search")
    if settings.write_group and settings.write_group not in _groups(context):
        raise NotAWriter(f"this needs a token of the group {settings.write_group}")


def tenant_of(context: Context, claim: str) -> str:
    """The tenant that the authorizer names. Raises NoTenant where it names none."""
    authorizer = _part(context, "authorizer")
    name = (_claims(context) or authorizer).get(claim)
    if not authorizer and claim in _IAM_FACTS:
        name = _part(context, "identity").get(claim)
    if not isinstance(name, str) or not is_name(name):
        raise NoTenant(f"the caller's {claim} names no tenant")
    return name


def _groups(context: Context) -> list[str]:
    """Gateways make one text of a list: a,b or [a b]. A group's name has no space."""
    listed = _claims(context).get(_GROUPS) or ""
    return _BETWEEN.split(listed.strip("[]")) if isinstance(listed, str) else list(listed)


def _claims(context: Context) -> Context:
    return _part(_part(context, "authorizer"), "claims")


def _part(context: Context, name: str) -> Context:
    part = context.get(name)
    return part if isinstance(part, Mapping) else {}
