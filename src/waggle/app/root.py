# SPDX-License-Identifier: Apache-2.0
"""The composition root: it builds every part of a server from `Settings`.

Used by `waggle.app.serving`. Owns the data directory's lock, the state database and one task group,
and orders their shutdown. Knows no use case.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial

import anyio
import anyio.abc
import structlog

from waggle.allocator import trim
from waggle.app.asking import keep_answers
from waggle.app.data_directory import own
from waggle.app.hypervisors import ADAPTERS, Adapters, Chosen, hypervisors, standing_by
from waggle.app.machines import (
    Machinery,
    end_lost_machines,
    end_machines,
    local_machines,
    machine_groups,
    machinery,
    warm_pool,
)
from waggle.app.network import Egress, operator_network, operator_rules
from waggle.app.observing import Watch, exposed_urls, rates, watching
from waggle.app.reloading import Reread
from waggle.app.secrets import open_secrets
from waggle.app.values import (
    certificates,
    execution_limits,
    image_service,
    limits,
    offer,
    rooms,
    runtimes,
    steady_clock,
    warm_up,
)
from waggle.config import Settings
from waggle.config.places import Places
from waggle.domain.access import SeveralOwners, one_owner
from waggle.domain.files.tree import MAX_RECORDS_BYTES
from waggle.domain.hypervisor import ByHypervisor
from waggle.domain.observer import Clock, Observer
from waggle.domain.programs import MAX_OUTPUT
from waggle.infra.access.link_key import load_link_key
from waggle.infra.shared.spool import Spool
from waggle.infra.store.environments import SqliteCalls, SqliteStore
from waggle.mcp.context import Services
from waggle.service.environments.networks import NetworkService
from waggle.service.environments.pausing import Reaper
from waggle.service.environments.ports import PortService
from waggle.service.environments.questions import Questions
from waggle.service.environments.service import EnvironmentService
from waggle.service.environments.snapshots import SnapshotLimits, SnapshotService
from waggle.service.files import FilesystemService
from waggle.service.files.trees import TreeService
from waggle.service.files.watches import WatchService
from waggle.service.idempotency import Repeats
from waggle.service.local.frozen.snapshots import LocalSnapshots
from waggle.service.local.host import LocalHost
from waggle.service.local.images.images import ImageService, Pruner
from waggle.service.local.warm_machine import WarmMachine
from waggle.service.local.warm_pool import WarmPool
from waggle.service.programs.execution import ExecutionService
from waggle.service.programs.jobs import JobService
from waggle.tasks import together

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class App:
    """The parts that servers use."""

    settings: Settings
    environments: EnvironmentService
    services: Services
    hypervisors: Chosen
    watch: Watch
    reloads: tuple[Reread, ...]


def new_id() -> str:
    """Return a fresh id."""
    return str(uuid.uuid4())


@contextlib.asynccontextmanager
async def open_app(
    settings: Settings,
    several_owners: SeveralOwners = one_owner,
    authorities: bytes | None = None,
    adapters: Adapters = ADAPTERS,
) -> AsyncGenerator[App]:
    """Build everything, recover from an earlier server, and at the end destroy everything.

    `authorities` is what `certificates` returns; None reads it. Raises DataDirBusy when another
    server owns the data directory, and SettingsInvalid or SetupIncomplete for settings whose faults
    only show in use.
    """
    places = Places.of(settings)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(own(places))
        clock = steady_clock()
        end_lost_machines(settings)
        chosen = hypervisors(settings, machine_groups(settings, stack), adapters)
        await stack.enter_async_context(standing_by(chosen))

        def held() -> int:
            return environments.slots_held

        pool = warm_pool(settings, held)
        watch = stack.enter_context(
            watching(
                settings,
                lambda: (live.state for live in environments.all()),
                pool.counts,
                lambda: environments.guest_loads.totals,
            )
        )
        store = await SqliteStore.open(places.state)
        stack.push_async_callback(store.aclose)
        tasks = await stack.enter_async_context(_tasks())
        authorities = certificates(settings) if authorities is None else authorities
        images = image_service(settings, several_owners, authorities)
        made = machinery(settings, chosen.running, authorities, stack)
        rules, questions = operator_rules(settings), Questions(seconds=settings.ask_seconds)
        secrets = await stack.enter_async_context(open_secrets(settings, authorities))
        heard = (watch.observer, watch.traffic)
        egress = Egress(settings, rules, *heard, questions, secrets)
        parts = (settings, made, stack, tasks, egress)
        host = _local_host(*parts, images=images, pool=pool)
        environments = EnvironmentService(
            host=host,
            store=store,
            limits=limits(
                *(settings, several_owners, operator_network(settings, rules)),
                granting=secrets.granting,
            ),
            clock=clock,
            new_id=new_id,
            tasks=tasks,
            observer=watch.observer,
        )
        keep_answers(questions, environments, rules, always=settings.ask_always)
        await environments.recover()
        host.sweep(environment.id for environment in await store.unfinished())
        snapshots = SnapshotService(
            environments,
            LocalSnapshots(places.snapshots, lambda name: made.of(name).freezing),
            SnapshotLimits(settings.max_snapshots, settings.snapshot_keep),
            clock=clock,
            new_id=new_id,
        )
        grace = settings.shutdown_timeout.total_seconds()
        stack.push_async_callback(
            *(end_machines, environments.aclose, grace),
            lambda: [e.id for e in environments.all() if not e.is_on_disk],
        )
        stack.push_async_callback(end_machines, pool.aclose, grace, lambda: pool.size)
        tasks.start_soon(pool.run, partial(host.warm, warm_up(settings)))
        reaper = Reaper(
            environments,
            interval=settings.reaper_interval.total_seconds(),
            clock=clock,
            sleep=anyio.sleep,
            expire=snapshots.expire,
        )
        tasks.start_soon(reaper.run)
        pruner = Pruner(
            images,
            snapshots.images_in_use,
            max_bytes=settings.image_cache_max_mb << 20 or None,
            max_age=settings.image_cache_max_age,
            now=time.time,
            sleep=anyio.sleep,
        )
        tasks.start_soon(pruner.run)
        tasks.start_soon(egress.watch_rules, anyio.sleep)
        for room in rooms(settings):
            tasks.start_soon(room.watch)
        yield App(
            settings=settings,
            environments=environments,
            services=_services(
                *(settings, environments, snapshots, store),
                clock=clock,
                tasks=tasks,
                observer=watch.observer,
                questions=questions,
            ),
            hypervisors=chosen,
            watch=watch,
            reloads=(rules.reread, secrets.reread),
        )


@contextlib.asynccontextmanager
async def _tasks() -> AsyncGenerator[anyio.abc.TaskGroup]:
    """Open the server's task group, for watchers and the reaper, and cancel it at the end."""
    async with together() as group:
        yield group
        group.cancel_scope.cancel()


def _local_host(
    settings: Settings,
    made: ByHypervisor[Machinery],
    stack: contextlib.AsyncExitStack,
    tasks: anyio.abc.TaskGroup,
    egress: Egress,
    *,
    images: ImageService,
    pool: WarmPool[WarmMachine],
) -> LocalHost:
    stack.push_async_callback(images.aclose)
    return LocalHost(
        directory=Places.of(settings).environments,
        machines=local_machines(settings, made, tasks, stack),
        images=images,
        new_proxy=egress.new_proxy,
        pool=pool,
        room=made.first.room,
    )


def _services(
    settings: Settings,
    environments: EnvironmentService,
    snapshots: SnapshotService,
    store: SqliteStore,
    *,
    clock: Clock,
    tasks: anyio.abc.TaskGroup,
    observer: Observer,
    questions: Questions,
) -> Services:
    call_limits = execution_limits(settings)
    spool = partial(Spool, Places.of(settings).data)
    record = partial(spool, keep=settings.output_keep_mb << 20, view=MAX_OUTPUT)
    archive = partial(spool, keep=MAX_RECORDS_BYTES, view=0)
    keep = settings.output_keep_mb << 20
    jobs = JobService(environments, record=record, clock=clock, tasks=tasks, keep=keep)
    return Services(
        environments=environments,
        snapshots=snapshots,
        execution=ExecutionService(environments, jobs, runtimes(settings), call_limits),
        jobs=jobs,
        filesystem=FilesystemService(environments),
        repeats=Repeats(SqliteCalls(store.database, time.time)),
        trees=TreeService(environments, record=archive, trim=trim),
        watches=WatchService(environments, tasks),
        ports=PortService(environments, load_link_key(Places.of(settings).link_key)),
        networks=NetworkService(environments),
        execution_limits=call_limits,
        rates=rates(settings),
        offer=offer(settings),
        parameter_headers=settings.parameter_headers,
        observer=observer,
        urls=exposed_urls(settings),
        questions=questions,
    )
