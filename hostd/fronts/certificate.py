"""The certificate of a front and its key, looked at before a server gets them: OpenSSL's words name no file."""

from __future__ import annotations

import ssl
from pathlib import Path

from hostd_workers.wire.errors import FailedPreconditionError


def check_certificate(certificate: str, key: str | None) -> None:
    """Raise `FailedPreconditionError`, which says what to do, unless a server can use this pair of PEM files.

    None: the key is in the file of the certificate.
    """
    key = key or certificate
    _check_readable("certificate", certificate)
    _check_readable("key", key)
    is_encrypted = False

    def password() -> str:  # without it OpenSSL asks at the terminal
        nonlocal is_encrypted
        is_encrypted = True
        return ""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(certificate)
    except ssl.SSLError:
        raise FailedPreconditionError(f"fronts.certificate: {certificate} holds no certificate in PEM form") from None
    try:
        context.load_cert_chain(certificate, key, password)
    except ssl.SSLError as error:
        if is_encrypted:
            what = f"{key} is encrypted, and nobody is asked for its password: `openssl pkey -in {key}` decrypts it"
        elif error.reason == "KEY_VALUES_MISMATCH":
            what = f"{key} is the key of another certificate than that in {certificate}"
        else:
            what = f"{key} holds no private key in PEM form that the certificate in {certificate} can have"
        raise FailedPreconditionError(f"fronts.key: {what}") from None


def _check_readable(setting: str, file: str) -> None:
    try:
        Path(file).read_bytes()
    except OSError as error:
        raise FailedPreconditionError(f"fronts.{setting}: {file} cannot be read: {error.strerror}") from None
