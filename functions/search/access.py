"""Who calls, according to API Gateway's authorizer; nothing that the caller sends is trusted.

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

# The caller's identity that IAM confirms. The identity also has unconfirmed fields: the user agent.
_IAM_FACTS = ("accountId", "caller", "cognitoIdentityId", "user")
_GROUPS = "cognito:groups"
_SEPARATORS = re.compile(r"[, ]+")

Context = Mapping[str, Any]


def context_of(request: Request) -> Context:
    """The request context from API Gateway; empty where there is no gateway."""
    event = request.scope.get("aws.event") or {}
    return event.get("requestContext") or {}


def check_writer(context: Context, settings: Settings) -> None:
    """Raises NotAWriter, naming what is missing, for a caller who may only search."""
    key = _part(context, "identity").get("apiKeyId")
    if settings.write_keys and key not in settings.write_keys:
        raise NotAWriter("this needs the write key; the key that was sent only allows searching")
    if settings.write_group and settings.write_group not in _groups(context):
        raise NotAWriter(f"this needs a token of a member of the group {settings.write_group}")


def tenant_of(context: Context, claim: str) -> str:
    """The tenant in the authorizer's claim. Raises NoTenant where there is none."""
    authorizer = _part(context, "authorizer")
    name = (_claims(context) or authorizer).get(claim)
    if not authorizer and claim in _IAM_FACTS:
        name = _part(context, "identity").get(claim)
    if not isinstance(name, str) or not is_name(name):
        raise NoTenant(f"the caller's {claim} does not name a tenant")
    return name


def _groups(context: Context) -> list[str]:
    """A gateway passes a list as one string: a,b or [a b]. Names of groups have no spaces."""
    listed = _claims(context).get(_GROUPS) or ""
    return _SEPARATORS.split(listed.strip("[]")) if isinstance(listed, str) else list(listed)


def _claims(context: Context) -> Context:
    return _part(_part(context, "authorizer"), "claims")


def _part(context: Context, name: str) -> Context:
    part = context.get(name)
    return part if isinstance(part, Mapping) else {}
