# SPDX-License-Identifier: Apache-2.0
"""What the rest of waggle calls: pull an image, push one, ask what a reference means now.

Called by the images service and `waggle image pull|push`. `bring` and `push` do the work.
"""

from __future__ import annotations

from waggle.domain.errors import TooLarge
from waggle.domain.reference import ImageReference
from waggle.infra.oci.registry.bring import Bringing, OnLayer, distinct, first_of
from waggle.infra.oci.registry.client import Client
from waggle.infra.oci.registry.endpoints import endpoints
from waggle.infra.oci.registry.manifests import find_image, find_manifest
from waggle.infra.oci.registry.options import Ambient, RegistryOptions, Report
from waggle.infra.oci.registry.progress import Meter
from waggle.infra.oci.registry.push import push
from waggle.infra.oci.store.image import Descriptor
from waggle.infra.oci.store.layout import Layout
from waggle.infra.shared.disk_room import storage_errors

_STORE = "The image store cannot be read or written"


class Puller:
    """Pulls and pushes images of one layout; safe to use from several tasks and processes."""

    def __init__(
        self,
        layout: Layout,
        options: RegistryOptions,
        *,
        platform: str,
        ambient: Ambient | None = None,
        on_layer: OnLayer | None = None,
    ) -> None:
        """`platform` is `os/architecture`, as in `linux/amd64`. Nothing is opened yet.

        `on_layer` is told of each layer whose transfer begins, with its diff id and what comes in:
        whoever wants to follow it asks for its reader at once.
        """
        self._layout = layout
        self._options = options
        self._platform = platform
        self._ambient = ambient or Ambient()
        self._on_layer = on_layer

    async def pull(self, reference: ImageReference, progress: Report) -> str:
        """Bring an image into the layout, named `str(reference)`; return its manifest's digest.

        Idempotent: blobs that are there (of the right size) are not fetched again. Cancellable;
        nothing half-made stays then or after an error. Raises ImageMissing, ImageCorrupt,
        ImageUnavailable (RegistryBusy where later may work), TooLarge, InvalidArgument,
        SettingsInvalid and TimedOut (the layout is locked for too long).
        """
        servers = endpoints(reference, self._options)
        async with Client(self._options, self._ambient) as client:
            image = await first_of(
                servers, lambda server: find_image(client, server, reference, self._platform)
            )
            wanted = distinct(image.layers)
            total = sum(blob.size for blob in wanted)
            if total > self._options.max_bytes:
                raise TooLarge(
                    f"{reference} has {total} bytes of layers; the limit is"
                    f" {self._options.max_bytes}."
                )
            order = (image.endpoint, *(s for s in servers if s != image.endpoint))
            work = Bringing(self._layout, client, order, image, str(reference), self._on_layer)
            with storage_errors(_STORE):
                await work.run(Meter(wanted, progress, f"Pulling {reference}"))
        return image.manifest.digest

    async def resolve(self, reference: ImageReference) -> Descriptor:
        """Ask the registry which manifest (for our platform) a reference means now.

        Fetches only the manifest or index. Raises as `pull`.
        """
        servers = endpoints(reference, self._options)
        async with Client(self._options, self._ambient) as client:
            found, _ = await first_of(
                servers, lambda server: find_manifest(client, server, reference, self._platform)
            )
        return found

    async def push(
        self, name: str, reference: ImageReference, progress: Report, *, mount_from: str = ""
    ) -> str:
        """Send the stored image `name` to a registry as `reference`; return its digest.

        Only the platform's manifest is sent. Blobs that the registry has are not sent again;
        `mount_from` names another repository of it that may have them. Idempotent, cancellable.
        Raises ImageMissing, ImageCorrupt, ImageUnavailable, InvalidArgument, SettingsInvalid.
        """
        async with Client(self._options, self._ambient, "pull,push") as client:
            with storage_errors(_STORE):
                return await push(
                    client,
                    self._layout,
                    name,
                    reference,
                    self._platform,
                    progress=progress,
                    mount_from=mount_from,
                )
