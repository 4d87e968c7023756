"""Which names of variables, parameters and options stand for a secret."""

from __future__ import annotations

import re

_BOUNDARY = re.compile(r"[^0-9A-Za-z]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# Words of a name, in lower case.
_SECRET = re.compile(
    r"tokens?|secrets?|pw|pwd|pass|passwords?|passwd|passphrase|passcode|creds?|credentials?|sig|signature|bearer|cookie"
    r"|sas|dsn|pat|jwt|otp|auth|\w*(password|passwd|passphrase|secret|token|apikey|secretkey|accesskey|privatekey)s?"
)
_KEY = re.compile(r"keys?")
# A key of one of these kinds is a secret; others, such as S3_KEY or SORT_KEY, may be.
_KIND_OF_KEY = re.compile(
    r"api|access|secret|private|encryption|signing|signature|master|service|account|auth|ssh|deploy|shared|client|app"
    r"|storage|subscription|rsa|aes|hmac|tls|ssl|webhook|license"
)


def split_words(name: str) -> list[str]:
    """Return the parts of a name in lower case: AWS_ACCESS_KEY and awsAccessKey give aws, access, key."""
    return [word.lower() for word in _BOUNDARY.split(name) if word]


def is_secret_name(name: str) -> bool:
    """Return whether a name such as GITHUB_TOKEN, db.password or accessKey says that its value is a secret."""
    words = split_words(name)
    return any(map(_SECRET.fullmatch, words)) or (is_key_name(name) and any(map(_KIND_OF_KEY.fullmatch, words)))


def is_key_name(name: str) -> bool:
    """Return whether a name such as MODEL_KEY says that its value may be a secret, depending on the value."""
    return any(map(_KEY.fullmatch, split_words(name)))
