"""Certificates that a front cannot use: the host's start says which file, and what is wrong with it."""

import subprocess

import pytest

import hostd


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Two certificates with their keys, and the first key encrypted."""
    directory = tmp_path_factory.mktemp("pairs")
    for name in ("one", "two"):
        openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-keyout", f"{directory}/{name}.key", "-out", f"{directory}/{name}.pem"),
        )
    openssl(
        "pkey", "-in", f"{directory}/one.key", "-aes256", "-passout", "pass:xxxx", "-out", f"{directory}/secret.key"
    )
    return directory


@pytest.mark.parametrize("front", ["http", "grpc"])
@pytest.mark.parametrize(
    ("certificate", "key", "words"),
    [
        ("nix.pem", "one.key", r"fronts\.certificate: .*nix\.pem cannot be read: No such file"),
        ("one.pem", "nix.key", r"fronts\.key: .*nix\.key cannot be read: No such file"),
        ("one.key", "one.key", r"fronts\.certificate: .*one\.key holds no certificate in PEM form"),
        ("one.pem", None, r"fronts\.key: .*one\.pem holds no private key in PEM form"),
        ("one.pem", "two.key", r"fronts\.key: .*two\.key is the key of another certificate than that in .*one\.pem"),
        ("one.pem", "secret.key", r"fronts\.key: .*secret\.key is encrypted, .*`openssl pkey -in .*secret\.key`"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_named_with_what_is_wrong(pairs, front, certificate, key, words):
    files = {"certificate": str(pairs / certificate), "key": None if key is None else str(pairs / key)}
    host = hostd.Host(fronts={front: 0, **files}, workers={"templates": "off"})
    with pytest.raises(hostd.FailedPreconditionError, match=f"{front} front does not start: {words}"):
        host.start()
