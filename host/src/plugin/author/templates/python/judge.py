"""Keeps documents with a given status."""

import json

from syncline_bson import get

KEEP, DROP = 0, 1


class ConfigError(Exception):
    """A configuration that cannot be used; names the key."""


def parse(text):
    """The configuration, checked."""
    config = json.loads(text)
    for key in config:
        if key != "status":
            raise ConfigError(f"`{key}`: no such key")
    if not isinstance(config.get("status"), str) or not config["status"]:
        raise ConfigError("`status`: expected text")
    return config


def judge(config, document):
    """Nothing may count here but the configuration, the namespace and the document."""
    return KEEP if get(document, "status") == config["status"] else DROP
