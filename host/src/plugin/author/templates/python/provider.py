"""Gets tokens from a company's own service: a POST with an API key, answered with a token."""

import json
import re
from urllib.parse import quote

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports import identity
from wit_world.imports import config as configuration
from wit_world.imports import http, secrets, types

KEYS = {"tokenUrl"}


def parse():
    """The configuration, checked."""
    config = json.loads(configuration.all())
    for key in config:
        if key not in KEYS:
            raise Err(identity.Failure_Config(f"`{key}`: no such key"))
    if not re.match(r"https?://[^/]+", str(config.get("tokenUrl"))):
        raise Err(identity.Failure_Config("`tokenUrl`: expected https:// and a host"))
    return config


class Identity(exports.Identity):
    def describe(self) -> identity.Descriptor:
        origin = re.match(r"https?://[^/?]+", parse()["tokenUrl"]).group()
        return identity.Descriptor("@name@", "0.1.0", [identity.Flow.MACHINE], [origin])

    def validate(self) -> None:
        parse()

    def get_token(self, request: identity.TokenRequest) -> identity.Credential:
        url = parse()["tokenUrl"]
        if request.flow != identity.Flow.MACHINE:
            raise Err(identity.Failure_Unsupported("this serves workloads"))
        body = "audience=" + quote(request.audience or "", safe="")
        form = ("Content-Type", "application/x-www-form-urlencoded")
        outgoing = http.Request(
            http.Method.POST, url, [form], body.encode(), request.timeout_ms, 65536
        )
        # The host puts the key in; this plugin never reads it.
        key = secrets.Placement("api-key", secrets.Place_Header(("Authorization", "Bearer ")))
        try:
            answer = secrets.send_with(outgoing, [key])
        except Err as error:
            raise Err(failure(error.value)) from None
        if answer.status != 200:
            refusal = identity.OauthError(f"status {answer.status}", None)
            raise Err(identity.Failure_Denied(refusal))
        try:
            token = json.loads(answer.body)
            return identity.Credential(
                token["access_token"], int(token.get("expires_in", 300)) * 1000, None, []
            )
        except (ValueError, KeyError, TypeError):
            raise Err(identity.Failure_Internal("the answer holds no token")) from None


def failure(error):
    """What the host should do about an error of its own."""
    if isinstance(error, types.HostError_TimedOut):
        return identity.Failure_TimedOut()
    if isinstance(error, types.HostError_Denied):
        return identity.Failure_Config(error.value)
    return identity.Failure_Unavailable(identity.Outage(str(error.value), None))
