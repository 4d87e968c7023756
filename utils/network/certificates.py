"""Which certificate authorities are trusted: those of the environment's variables, else those of the system.

The libraries each look at a variable of their own. Here, a file that any of them names is trusted by every client, so
that one variable is enough. REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE and the variable of a client itself replace the
authorities of the system, as they do in the libraries; those of other clients add to them.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import ssl
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.errors import UsageError
from core.i18n import tr

LAKEFS, STORE, MLFLOW = "lakeFS", "object storage", "MLflow"  # the clients
OWN_VARIABLES = {MLFLOW: "MLFLOW_TRACKING_SERVER_CERT_PATH", STORE: "AWS_CA_BUNDLE"}
REPLACING = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
OPENSSL = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # OpenSSL takes them for the system's
INSECURE, CLIENT_CERTIFICATE = "MLFLOW_TRACKING_INSECURE_TLS", "MLFLOW_TRACKING_CLIENT_CERT_PATH"
VARIABLES = (*OWN_VARIABLES.values(), *REPLACING, *OPENSSL, INSECURE, CLIENT_CERTIFICATE)
TO_SET = "REQUESTS_CA_BUNDLE"  # the variable that messages recommend


@dataclass(frozen=True)
class Authority:
    """A file or directory of certificates, and the variable that names it."""

    variable: str
    path: Path

    def __str__(self) -> str:
        return f"{self.variable}={self.path}"


@dataclass(frozen=True)
class Certificates:
    """Trusted authorities of one client. `system`: those of the system, too. `verify`: False trusts any server."""

    named: tuple[Authority, ...]
    system: bool
    verify: bool = True
    own: Path | None = None  # certificate and key by which the client identifies itself

    @classmethod
    def of(cls, variables: Mapping[str, str], client: str) -> Certificates:
        """Return what the variables say about a client. Raises UsageError for variables that contradict each other."""
        own, insecure = OWN_VARIABLES.get(client), client == MLFLOW and _is_true(variables.get(INSECURE, ""))
        if insecure and own and variables.get(own):
            raise UsageError(tr("{insecure} and {variable} are both set: unset one", insecure=INSECURE, variable=own))
        named = tuple(
            Authority(name, Path(variables[name]))
            for name in (*OWN_VARIABLES.values(), *REPLACING, *OPENSSL)
            if variables.get(name)
        )
        replaced = any(authority.variable in (own, *REPLACING) for authority in named)
        identity = variables.get(CLIENT_CERTIFICATE) if client == MLFLOW else None
        return cls(named, not replaced, not insecure, Path(identity) if identity else None)

    def context(self) -> ssl.SSLContext:
        """Return a TLS context. Raises UsageError that names the variable of a file that is missing or not of certificates."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if not self.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        else:
            for authority in self.named:
                _load(context, authority)
            if self.system:
                context.load_default_certs()
                context.load_verify_locations(_certifi())
        if self.own:
            _load_identity(context, self.own)
        return context

    def bundle(self) -> str:
        """Return a PEM file of all trusted authorities, for libraries that take one file. Raises UsageError as `context`."""
        return _bundle(self)

    def write_bundle(self) -> str:
        """Return the path of the file of `bundle`."""
        context = self.context()
        single = self.named[0].path if len(self.named) == 1 and not self.system else None
        if single is not None and single.is_file():
            return str(single)
        texts = [file.read_text(encoding="utf-8", errors="replace") for file in self._files()]
        if self.system:
            loaded = context.get_ca_certs(binary_form=True)
            texts += [Path(_certifi()).read_text(encoding="utf-8"), *map(ssl.DER_cert_to_PEM_cert, loaded)]
        return _temporary_file("\n".join(texts))

    def _files(self) -> Iterable[Path]:
        for authority in self.named:
            if authority.path.is_dir():
                yield from sorted(file for file in authority.path.iterdir() if file.is_file())
            else:
                yield authority.path

    def __str__(self) -> str:
        """Return the variables and paths, for messages."""
        return ", ".join(map(str, self.named)) or tr("the certificates of the system")


@functools.lru_cache(8)
def _bundle(certificates: Certificates) -> str:
    """Write one file per process, and not one per connection."""
    return certificates.write_bundle()


def _load(context: ssl.SSLContext, authority: Authority) -> None:
    path = authority.path
    try:
        if path.is_dir():
            context.load_verify_locations(capath=str(path))
            for file in path.iterdir():  # OpenSSL itself only finds files that are named by a hash
                with contextlib.suppress(OSError):
                    context.load_verify_locations(file)
        else:
            context.load_verify_locations(path)
    except FileNotFoundError as error:
        raise UsageError(
            tr("{variable}={path}: no such file: correct or unset it", variable=authority.variable, path=path)
        ) from error
    except ssl.SSLError as error:
        raise UsageError(
            tr(
                "{variable}={path}: expected a PEM file of certificates: correct or unset it",
                variable=authority.variable,
                path=path,
            )
        ) from error
    except OSError as error:
        raise _unreadable(authority.variable, path, error) from error


def _load_identity(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_cert_chain(path)
    except ssl.SSLError as error:
        raise UsageError(
            tr(
                "{variable}={path}: expected a PEM file of a certificate and its key: correct or unset it",
                variable=CLIENT_CERTIFICATE,
                path=path,
            )
        ) from error
    except OSError as error:
        raise _unreadable(CLIENT_CERTIFICATE, path, error) from error


def _unreadable(variable: str, path: Path, error: OSError) -> UsageError:
    reason = error.strerror or str(error)
    return UsageError(
        tr(
            "{variable}={path}: cannot be read ({reason}): correct or unset it",
            variable=variable,
            path=path,
            reason=reason,
        )
    )


def _certifi() -> str:
    """Return the file of certifi, which the libraries trust by default; it is installed with requests."""
    import certifi

    return certifi.where()


def _temporary_file(text: str) -> str:
    """Write a file that is removed when the process ends; return its path."""
    number, path = tempfile.mkstemp(prefix="certificates-", suffix=".pem")
    with os.fdopen(number, "w", encoding="utf-8") as stream:
        stream.write(text)
    atexit.register(_remove, path, os.getpid())
    return path


def _remove(path: str, process: int) -> None:
    if os.getpid() == process:  # not in a forked process
        with contextlib.suppress(OSError):
            os.unlink(path)


def _is_true(text: str) -> bool:
    return text.strip().lower() in ("true", "1")  # as MLflow reads it
