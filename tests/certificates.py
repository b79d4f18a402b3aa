"""Certificates that sign themselves, for tests that speak TLS."""

import subprocess
from pathlib import Path


def certificate(folder: Path) -> tuple[str, str]:
    """A certificate of this machine and its key, new with each call; clients trust the certificate itself."""
    names = str(folder / "certificate.pem"), str(folder / "key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30"
    command += " -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    # A server's own, and not an authority's: rustls takes no other from a server.
    command += " -addext basicConstraints=critical,CA:FALSE"
    subprocess.run([*command.split(), "-out", names[0], "-keyout", names[1]], check=True, capture_output=True)
    return names
