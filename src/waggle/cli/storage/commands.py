# SPDX-License-Identifier: Apache-2.0
"""The command lines of `waggle image|snapshot|template|token`, which need no server. No logic.

`main` includes them. Every command imports its own code.
"""

from __future__ import annotations

from pathlib import Path

from cyclopts import App, Group

from waggle.cli.options import Json

image = App(name="image", help="The images that environments boot from.")
STORE, TRANSFER = Group("The local store", sort_key=1), Group("Build and transfer", sort_key=2)


@image.command(name="build", group=TRANSFER)
def image_build(*names: str, missing: bool = False) -> None:
    """Build images from their definitions in images/.

    :param names: Their names; by default those of all runtimes.
    :param missing: Build only images that are missing, or were built from an older definition.
    """
    from waggle.cli.storage.image import build as run

    run(names, only_missing=missing)


@image.command(name="pull", group=TRANSFER)
def image_pull(reference: str, *, json: Json = False) -> None:
    """Pull an image from a registry into the store and make its disk.

    :param reference: The image, such as registry.example/team/app:tag or
        registry.example/app@sha256:...
    """
    from waggle.cli.storage.image_transfer import pull as run

    run(reference, as_json=json)


@image.command(name="push", group=TRANSFER)
def image_push(name: str, reference: str | None = None, *, json: Json = False) -> None:
    """Send an image of the store to a registry.

    :param name: Its name in the store.
    :param reference: Where to send it; by default its own name.
    """
    from waggle.cli.storage.image_transfer import push as run

    run(name, reference, as_json=json)


@image.command(name="load", group=TRANSFER)
def image_load(source: str, *, name: str | None = None, json: Json = False) -> None:
    """Load an image from a file or a directory into the store and make its disk.

    :param source: A file that `docker save` or `podman save` wrote, an OCI archive or layout; or
        exactly: oci:DIRECTORY[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME],
        dir:DIRECTORY.
    :param name: Its name in the store; by default the name in the source.
    """
    from waggle.cli.storage.image_transfer import load as run

    run(source, name, as_json=json)


@image.command(name="save", group=TRANSFER)
def image_save(name: str, target: str) -> None:
    """Write an image of the store to a file or a directory.

    :param name: Its name in the store.
    :param target: oci:DIRECTORY[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:NAME].
    """
    from waggle.cli.storage.image_transfer import save as run

    run(name, target)


@image.command(name="ls", group=STORE)
def image_ls(*, json: Json = False) -> None:
    """List the images of the local store."""
    from waggle.cli.storage.image import ls as run

    run(as_json=json)


@image.command(name="inspect", group=STORE)
def image_inspect(name: str) -> None:
    """Print the facts about one image, as JSON."""
    from waggle.cli.storage.image import inspect as run

    run(name)


@image.command(name="rm", group=STORE)
def image_rm(*names: str) -> None:
    """Remove images and their disks. One that a running environment uses is refused."""
    from waggle.cli.storage.image import rm as run

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

    Images that a running environment uses or a WAGGLE_IMAGE_* setting names always stay. Without
    options, the bound is WAGGLE_IMAGE_CACHE_MAX_MB.

    :param max_size: Remove until images and disks take no more than this: 500MB, 20GB, 8GiB.
    :param older_than: Remove what was not used for this long: 90m, 12h, 7d.
    :param dry_run: Only print what would be removed.
    """
    from waggle.cli.storage.image import prune as run

    run(max_size=max_size, older_than=older_than, dry_run=dry_run, as_json=json)


snapshot = App(name="snapshot", help="The snapshots in the server's data directory.")


@snapshot.command(name="ls")
def snapshot_ls(*, json: Json = False) -> None:
    """List the snapshots of all owners: their sizes, and until when they are kept."""
    from waggle.cli.storage.snapshot import ls as run

    run(as_json=json)


@snapshot.command(name="rm")
def snapshot_rm(*ids: str) -> None:
    """Remove snapshots by id; environments that were resumed from them continue."""
    from waggle.cli.storage.snapshot import rm as run

    run(ids)


@snapshot.command(name="export")
def snapshot_export(snapshot: str, file: Path) -> None:
    """Write a snapshot to one file, which holds all that was in its memory, secrets included.

    :param snapshot: Its id, as 'waggle snapshot ls' shows it.
    :param file: The file to make; it must not exist.
    """
    from waggle.cli.storage.snapshot import export as run

    run(snapshot, file)


@snapshot.command(name="import")
def snapshot_import(file: Path, *, owner: str | None = None, json: Json = False) -> None:
    """Import a snapshot that 'waggle snapshot export' wrote to a file, and print its new id.

    Import only files that you made or trust: QEMU reads the state of devices from them.

    :param file: The exported file.
    :param owner: Its new owner; by default the owner of clients without a token.
    """
    from waggle.cli.storage.snapshot import bring as run

    run(file, owner, as_json=json)


template = App(name="template", help="The frozen machines that environments start from.")


@template.command(name="ls")
def template_ls(*, json: Json = False) -> None:
    """List the templates: their images and sizes, and when they were last used."""
    from waggle.cli.storage.template import ls as run

    run(as_json=json)


@template.command(name="rm")
def template_rm(*ids: str) -> None:
    """Remove templates by id; machines that were resumed from them continue."""
    from waggle.cli.storage.template import rm as run

    run(ids)


@template.command(name="prune")
def template_prune(*, older_than: str = "7d") -> None:
    """Remove templates that were not used for this long, and incomplete ones.

    :param older_than: How long, such as 12h or 7d; 0 removes all.
    """
    from waggle.cli.storage.template import prune as run

    run(older_than)


@template.command(name="build")
def template_build(*runtimes: str) -> None:
    """Make the templates of the configured runtimes now, and print their ids.

    It needs no server; a running server uses them at once.

    :param runtimes: Their names; by default all.
    """
    from waggle.cli.storage.template import build as run

    run(runtimes)


token = App(name="token", help="The bearer tokens in WAGGLE_AUTH_TOKENS_FILE.")


@token.command(name="new")
def token_new(owner: str, *, expires: str | None = None) -> None:
    """Make a token and print it once; the file keeps only its hash.

    The owner `metrics` is special: its tokens open /metrics and nothing else.

    :param owner: The owner of the environments that it opens; a name of your choice.
    :param expires: How long it works, such as 12h or 90d; for good unless given.
    """
    from waggle.cli.storage.token import new as run

    run(owner, expires)


@token.command(name="ls")
def token_ls(*, json: Json = False) -> None:
    """List the tokens: ids, owners and when they end."""
    from waggle.cli.storage.token import ls as run

    run(as_json=json)


@token.command(name="rm")
def token_rm(*ids: str) -> None:
    """Remove tokens by id; a running server refuses them within about a second."""
    from waggle.cli.storage.token import rm as run

    run(ids)
