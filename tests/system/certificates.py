"""Certificates of this machine, and of whoever signs them."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_BEGUN = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_PEM = serialization.Encoding.PEM
THIS_MACHINE = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Authority:
    """Signs certificates."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def write(self, path: Path) -> Path:
        """Write what is trusted by whoever trusts it."""
        path.write_bytes(self.certificate.public_bytes(_PEM))
        return path

    def signed(self, path: Path, *names: str, years: int = 100) -> Path:
        """Write a certificate of a server and its key, in one file."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = _about(names[0], self.certificate.subject, key, years)
        shown = x509.SubjectAlternativeName([_named(name) for name in names])
        made = made.add_extension(shown, critical=False)
        plain = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path.write_bytes(made.sign(self.key, hashes.SHA256()).public_bytes(_PEM) + plain)
        return path


def authority(name: str) -> Authority:
    """Make one."""
    key = ec.generate_private_key(ec.SECP256R1())
    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = _about(name, own, key, 100).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return Authority(key, made.sign(key, hashes.SHA256()))


def _about(name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, years: int) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=_BEGUN,
        not_valid_after=_BEGUN + datetime.timedelta(days=365 * years),
    )


def _named(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
