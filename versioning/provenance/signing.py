"""Signatures of directories by the OpenSSF model-signing library, with elliptic-curve keys in PEM files.

`model_signing verify key DIR --signature DIR/model.sig --public_key KEY` verifies the same without this project.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from core.errors import AppError, UsageError, describe_error
from core.i18n import tr

SIGNATURE = "model.sig"
PUBLIC_SUFFIX = ".pub"
PRIVATE_MODE, PUBLIC_MODE = 0o600, 0o644


def require_model_signing(what: str) -> None:
    """Raise UsageError if the optional package is missing; `what` needs it."""
    try:
        import model_signing  # noqa: F401
    except ImportError:
        raise UsageError(tr("{what} needs model-signing: pip install model-signing pyopenssl", what=what)) from None


def make_key(path: Path, password: str | None) -> Path:
    """Write a new private key, encrypted if there is a password, and return the file of its public key beside it.

    Raises UsageError if one of the files exists.
    """
    require_model_signing("--make-signing-key")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public_path = path.with_name(path.name + PUBLIC_SUFFIX)
    key = ec.generate_private_key(ec.SECP256R1())
    encryption = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for file, content, mode in ((path, private, PRIVATE_MODE), (public_path, public, PUBLIC_MODE)):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError:
            raise UsageError(tr("{file} exists: choose another name, as a key is never replaced", file=file)) from None
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
    return public_path


def require_usable_key(key: Path, password: str | None) -> None:
    """Raise UsageError unless the private key can sign; called before any work."""
    _signer(key, password)


def _signer(key: Path, password: str | None) -> Any:
    """Return what signs with a private key. Raises UsageError for an unusable one."""
    require_model_signing("SIGNING_KEY")
    from model_signing import signing

    # The library hands the password to `cryptography`, which takes bytes, although it declares text.
    secret: Any = None if password is None else password.encode()
    try:
        return signing.Config().use_elliptic_key_signer(private_key=key, password=secret)
    except (OSError, ValueError, TypeError) as error:  # TypeError: a password that is missing, or not needed
        raise UsageError(
            tr("SIGNING_KEY={key}: not a usable private key: {error}", key=key, error=describe_error(error))
        ) from error


def sign_directory(directory: Path, key: Path, password: str | None) -> Path:
    """Sign all files of a directory and return the file of the signature in it. Raises UsageError for an unusable key."""
    signer = _signer(key, password)
    from model_signing import hashing

    signature = directory / SIGNATURE
    hashed = hashing.Config().use_file_serialization().set_ignored_paths(paths=[signature], ignore_git_paths=False)
    signer.set_hashing_config(hashed).sign(directory, signature)
    return signature


def verify_directory(directory: Path, key: Path) -> None:
    """Verify that a directory holds the files that were signed, and no others. Raises AppError.

    Raises UsageError if `key` is not a public key.
    """
    require_model_signing("--require-signature")
    from model_signing import verifying

    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            tr("--require-signature {key}: not a public key: {error}", key=key, error=describe_error(error))
        ) from error
    try:
        verifier.verify(directory, directory / SIGNATURE)
    except Exception as error:  # the parsers of a damaged signature raise many types; each of them means "not verified"
        raise AppError(
            tr(
                "{directory}: the signature does not fit key {key}: {error}",
                directory=directory,
                key=key,
                error=describe_error(error),
            )
        ) from error
