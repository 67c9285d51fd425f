# SPDX-License-Identifier: Apache-2.0
"""TLS to the server of a secret, verified by this host's store and the operator's bundle.

One `UpstreamTls` serves all environments. A server whose certificate is not valid for the name gets
nothing, and the guest reads why. Revocation is not checked. Decides nothing about requests.
"""

from __future__ import annotations

import ssl

from waggle.infra.net import PeerGone, guest_request
from waggle.infra.net.guest_request import Refusal
from waggle.infra.net.tls import Patient, TlsFailed, TlsStream


class UpstreamTls:
    """Contexts for servers, by the protocols that they are offered; made when first needed."""

    def __init__(self, bundle: bytes = b"") -> None:
        """`bundle` is PEM with authorities to trust beside the host's; it may be empty."""
        self._bundle = bundle
        self._contexts: dict[tuple[str, ...], ssl.SSLContext] = {}

    def context(self, protocols: tuple[str, ...]) -> ssl.SSLContext:
        """Return the context that offers these protocols; the first of each kind takes 20 ms."""
        context = self._contexts.get(protocols)
        if context is None:
            context = ssl.create_default_context()
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.options |= ssl.OP_NO_RENEGOTIATION
            if self._bundle:
                context.load_verify_locations(cadata=self._bundle.decode("ascii", "replace"))
            if protocols:
                context.set_alpn_protocols(list(protocols))
            self._contexts[protocols] = context
        return context

    async def open(self, below: Patient, host: str, protocols: tuple[str, ...]) -> TlsStream:
        """Return a verified stream to `host`. Raises Refusal. Has no deadline."""
        stream = TlsStream(below, self.context(protocols))
        try:
            await stream.handshake(server=False, name=host)
        except TlsFailed as error:
            raise _not_verified(host, str(error)) from None
        except PeerGone:
            text = f"waggle: {guest_request.printable(host)} hung up in the TLS handshake."
            raise Refusal(502, "bad-answer", text) from None
        return stream


def _not_verified(host: str, why: str) -> Refusal:
    """502: TLS failed, for whatever reason; nothing was sent."""
    why = f"cannot be verified ({why.removesuffix('.')})"
    text = (
        f"waggle: {host} {why}, and secrets go only to verified servers; "
        "nothing was sent. The operator can add an authority to WAGGLE_CA_BUNDLE."
    )
    return Refusal(502, "not-verified", text, reason=f"it {why}")
