# SPDX-License-Identifier: Apache-2.0
"""The errors with which waggle refuses or fails, as one flat family.

Raised by all layers; turned into tool results only in `waggle.mcp` and into exit codes only in
`waggle.cli`. A `WaggleError` is a user's mistake or a guest's failure and is safe to show:
`message` says what happened, `hint` what to do next, `retryable` whether the same call may succeed
later without any change. Any other exception that escapes is a bug of waggle.
"""

from __future__ import annotations

import math
from typing import ClassVar


class WaggleError(Exception):
    """The base class. `code` is stable and machine-readable; texts may change."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    default_hint: ClassVar[str] = ""
    retry_after: int | None = None
    """Seconds after which the same call will succeed, where that is known."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class NotFound(WaggleError):
    """No environment has this id: it never existed, was destroyed, or is another owner's."""

    code = "not_found"
    default_hint = "Use list_environments to see what exists, or create_environment."


class NotRunning(WaggleError):
    """The environment exists but is not in a state that can serve the call."""

    code = "not_running"
    default_hint = "Wait until its status is 'running', or create a new environment."


class Busy(WaggleError):
    """The environment is in use, and the call needs it to be quiet."""

    code = "busy"
    retryable = True
    default_hint = "Wait until its calls have ended."


class MaxEnvironments(WaggleError):
    """The configured number of environments is reached."""

    code = "max_environments"
    retryable = True
    default_hint = "Destroy an environment that is no longer needed, then try again."


class QuotaExceeded(WaggleError):
    """The owner has reached a quota; see `domain.access`."""

    code = "quota_exceeded"
    retryable = True
    default_hint = "Destroy one of your environments that is no longer needed, then try again."


class RateLimited(WaggleError):
    """The owner makes too many calls."""

    code = "rate_limited"
    retryable = True
    default_hint = "Wait 1 s, then try again; do more in one call."

    def __init__(self, message: str, *, hint: str | None = None, seconds: float = 1.0) -> None:
        self.retry_after = max(1, math.ceil(seconds))
        wait = f"Wait {self.retry_after} s, then try again; do more in one call."
        super().__init__(message, hint=wait if hint is None else hint)


class InvalidRuntime(WaggleError):
    """The runtime is not one of python, node, shell, data."""

    code = "invalid_runtime"


class InvalidTransition(WaggleError):
    """The state machine has no such move; a bug unless two calls raced."""

    code = "invalid_transition"
    default_hint = "Use list_environments to see its status now."


class InvalidArgument(WaggleError):
    """A parameter is malformed or out of its stated range."""

    code = "invalid_argument"


class NoPorts(WaggleError):
    """Every port of the configured range is taken."""

    code = "no_ports"
    retryable = True
    default_hint = "Destroy an environment, or widen WAGGLE_SSH_PORT_BASE..WAGGLE_SSH_PORT_MAX."


class ImageMissing(WaggleError):
    """The image is not in the local store."""

    code = "image_missing"


class ImageCorrupt(WaggleError):
    """An image's bytes do not match its digests, or its layers try something forbidden."""

    code = "image_corrupt"


class ImageUnavailable(WaggleError):
    """A registry refuses the image, or its answer is unusable."""

    code = "image_unavailable"


class RegistryBusy(ImageUnavailable):
    """A registry cannot be reached, is overloaded or limits the rate: a later try may succeed."""

    retryable = True
    default_hint = "Try again later."


class BootFailed(WaggleError):
    """The machine did not reach a working guest; the message has the console's last lines."""

    code = "boot_failed"
    retryable = True
    default_hint = "Try again; if it repeats, run 'waggle doctor' on the server."


class PortTaken(BootFailed):
    """Another process took the forwarded port between its reservation and the VMM's start."""


class Unsupported(WaggleError):
    """This server's hypervisor cannot do that."""

    code = "unsupported"
    default_hint = "The operator can choose another with WAGGLE_HYPERVISOR."


class FrozenMachineUnusable(WaggleError):
    """A snapshot, or an environment paused to disk, cannot be resumed here and now."""

    code = "moment_unusable"
    default_hint = "Create a new environment, or use another snapshot."


class SnapshotFailed(WaggleError):
    """A snapshot could not be kept; the environment continues."""

    code = "snapshot_failed"
    retryable = True
    default_hint = "The server may be out of disk space: delete snapshots, then try again."


class GuestLost(WaggleError):
    """The machine died or stopped answering while a call was in progress."""

    code = "guest_lost"
    default_hint = "Its files are gone: create a new environment."


class GuestMisbehaves(WaggleError):
    """The guest floods this server or breaks its protocol."""

    code = "guest_misbehaves"
    default_hint = (
        "Only a program that runs as root in it can do that. Destroy it, and create a new one. "
        "restart_environment ends that program and keeps the files."
    )


class JobNotFound(WaggleError):
    """No job has this number, or its output is no longer kept."""

    code = "job_not_found"
    default_hint = "Call read_job without a job_id to see which are remembered."


class JobEnded(WaggleError):
    """The job has ended, so it takes no input and no signal."""

    code = "job_ended"
    default_hint = "read_job shows how it ended; run the program again for another job."


class TooManyJobs(WaggleError):
    """The environment runs as many jobs as are allowed."""

    code = "too_many_jobs"
    retryable = True
    default_hint = "Wait for one with read_job, or end one with its kill."


class KeyReused(WaggleError):
    """An idempotency key came with another tool or other arguments than at first."""

    code = "idempotency_key_reused"
    default_hint = "Use a new key for a new call, or repeat the first call unchanged."


class OutcomeUnknown(WaggleError):
    """A keyed call was interrupted by the end of the server."""

    code = "outcome_unknown"
    default_hint = "Its environment is gone; create a new one, and use a new key."


class TooManyPorts(WaggleError):
    """The environment exposes as many ports as are allowed, or no port of the host is free."""

    code = "too_many_ports"
    default_hint = "Close one with unexpose_port; get_environment lists them."


class TooManyVisits(WaggleError):
    """The exposed ports of the environment have as many connections as they may."""

    code = "too_many_connections"
    retryable = True
    default_hint = "Close some, or try again."


class TimedOut(WaggleError):
    """One of waggle's own deadlines passed."""

    code = "timeout"
    retryable = True


class TooLarge(WaggleError):
    """An input or a file exceeds its stated limit."""

    code = "too_large"


class FileNotFound(WaggleError):
    """The path does not exist inside the guest."""

    code = "file_not_found"
    default_hint = "Use list_files to see what is there."


class ArchiveNotFound(WaggleError):
    """No archive with this id is kept any more."""

    code = "archive_not_found"
    default_hint = "Make it anew: call download_files without archive_id."


class FileRefused(WaggleError):
    """The guest refused the file operation: permission, is a directory, disk full, ..."""

    code = "file_refused"


class DiskFull(WaggleError):
    """A disk of the server is full or refuses a write. Never the guest's own disk."""

    code = "disk_full"
    retryable = True
    default_hint = (
        "Destroy environments or delete snapshots that are no longer needed, or "
        "have the operator free space; then try again."
    )


class SetupIncomplete(WaggleError):
    """A program, a library, the kernel or the guest kit is missing on the host."""

    code = "setup_incomplete"
    default_hint = "Run 'waggle setup', then 'waggle doctor'."


class DataDirBusy(WaggleError):
    """Another server owns the data directory."""

    code = "data_dir_busy"


class SettingsInvalid(WaggleError):
    """A WAGGLE_* variable is unknown or has an unusable value."""

    code = "settings_invalid"
