# SPDX-License-Identifier: Apache-2.0
"""The command line of `waggle image`, which `main` includes. No logic, as in `main`."""

from __future__ import annotations

from cyclopts import App, Group

from waggle.cli.options import Json

image = App(name="image", help="The images that environments boot from.")
STORE, BRING = Group("The local store", sort_key=1), Group("Bring and take away", sort_key=2)


@image.command(name="build", group=BRING)
def image_build(*names: str, missing: bool = False) -> None:
    """Build images from their definitions in images/.

    Parameters
    ----------
    names
        Which ones; those of all runtimes when none is named.
    missing
        Build only what is not there yet, or was built from an older definition.
    """
    from waggle.cli.image.images import build as run

    run(names, only_missing=missing)


@image.command(name="pull", group=BRING)
def image_pull(reference: str, *, json: Json = False) -> None:
    """Bring an image from a registry into the store and make its disk.

    Parameters
    ----------
    reference
        What to bring, such as registry.example/team/app:tag or registry.example/app@sha256:...
    """
    from waggle.cli.image.transfer import pull as run

    run(reference, as_json=json)


@image.command(name="push", group=BRING)
def image_push(name: str, reference: str | None = None, *, json: Json = False) -> None:
    """Send an image of the store to a registry.

    Parameters
    ----------
    name
        Its name in the store.
    reference
        Where it goes; its own name when not given.
    """
    from waggle.cli.image.transfer import push as run

    run(name, reference, as_json=json)


@image.command(name="load", group=BRING)
def image_load(source: str, *, name: str | None = None, json: Json = False) -> None:
    """Bring an image from a file or a directory into the store and make its disk.

    Parameters
    ----------
    source
        A file that `docker save` or `podman save` wrote, an OCI archive or layout; or exactly:
        oci:DIRECTORY[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME], dir:DIRECTORY.
    name
        What to call it; the name that the source gives it when not given.
    """
    from waggle.cli.image.transfer import load as run

    run(source, name, as_json=json)


@image.command(name="save", group=BRING)
def image_save(name: str, target: str) -> None:
    """Write an image of the store to a file or a directory.

    Parameters
    ----------
    name
        Its name in the store.
    target
        oci:DIRECTORY[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:NAME].
    """
    from waggle.cli.image.transfer import save as run

    run(name, target)


@image.command(name="ls", group=STORE)
def image_ls(*, json: Json = False) -> None:
    """List the images of the local store."""
    from waggle.cli.image.images import ls as run

    run(as_json=json)


@image.command(name="inspect", group=STORE)
def image_inspect(name: str) -> None:
    """Print what is known of one image, as JSON."""
    from waggle.cli.image.images import inspect as run

    run(name)


@image.command(name="rm", group=STORE)
def image_rm(*names: str) -> None:
    """Remove images and their disks. One that a running environment uses is refused."""
    from waggle.cli.image.images import rm as run

    run(names)


@image.command(name="prune", group=STORE)
def image_prune(
    *,
    max_size: str | None = None,
    older_than: str | None = None,
    dry_run: bool = False,
    json: Json = False,
) -> None:
    """Remove images and disks, least recently used first, and what killed commands left.

    What a running environment uses and what a WAGGLE_IMAGE_* setting names always stays. Without
    options the bound is WAGGLE_IMAGE_CACHE_MAX_MB.

    Parameters
    ----------
    max_size
        Remove until images and disks take no more than this: 500MB, 20GB, 8GiB.
    older_than
        Remove what was not used for so long: 90m, 168h.
    dry_run
        Only tell what would go.
    """
    from waggle.cli.image.images import prune as run

    run(max_size=max_size, older_than=older_than, dry_run=dry_run, as_json=json)
