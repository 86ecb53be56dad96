"""Addresses of tracking servers without credentials, which MLflow reads from the environment.

An address with a user or password would be stored in the spec and printed in many places, so it is
refused. Messages of other libraries are masked before they are printed or stored.
"""

from __future__ import annotations

import ipaddress
import os
from typing import Any
from urllib.parse import urlsplit

from recipe.formatting import MASK, mask_addresses

USERNAME_VARIABLE, PASSWORD_VARIABLE = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
TOKEN_VARIABLE = "MLFLOW_TRACKING_TOKEN"

SECRET_VARIABLES = (PASSWORD_VARIABLE, TOKEN_VARIABLE, "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
"""For the server and its artifact store."""

CREDENTIALS_HINT = (
    f"set {USERNAME_VARIABLE} and {PASSWORD_VARIABLE}, or {TOKEN_VARIABLE}, in the environment"
)


def check_no_credentials(address: str) -> str:
    """Returns the address. Raises ValueError if it may contain a user, a password or another
    secret."""
    if "@" in address:
        scheme, rest = address.split("://")[0], address.rpartition("@")[2]
        raise ValueError(
            f"{mask_addresses(address)!r} contains a user or a password, which would be recorded "
            f"with the run; use {scheme}://{rest} and {CREDENTIALS_HINT}"
        )
    plain, query, _ = address.partition("?")
    if query and plain.startswith(("http://", "https://")):
        raise ValueError(
            f"'{plain}?{MASK}' has a query, which may contain a secret and would be recorded with "
            f"the run; use {plain.rstrip('/')} and {CREDENTIALS_HINT}"
        )
    return address


def mask_secrets(text: str) -> str:
    """Masks credentials in addresses, and the values of SECRET_VARIABLES."""
    for name in SECRET_VARIABLES:
        value = os.environ.get(name, "").strip()
        for form in filter(None, (value, repr(value)[1:-1])):
            text = text.replace(form, MASK)
    return mask_addresses(text)


def is_local_uri(uri: Any) -> bool:
    """Whether an address is on this machine, as 127.0.0.1 is."""
    try:
        host = urlsplit(uri).hostname if isinstance(uri, str) else None
        return host == "localhost" or (host is not None and ipaddress.ip_address(host).is_loopback)
    except ValueError:
        return False
