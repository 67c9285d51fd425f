# SPDX-License-Identifier: Apache-2.0
"""Who may use an exposed port: owners with a token, people with a link, and no other pages."""

from __future__ import annotations

from datetime import datetime, timedelta
from http.cookies import SimpleCookie

import httpx2
import pytest
from structlog.testing import capture_logs
from tests.support.exposing import PORT, Conversation, exposed, ok
from tests.support.owners import ANN, BOB, SCRAPER, guarded
from tests.support.server import NOW, Setup, bearer, raw
from tests.support.waiting import until

from waggle.domain.exposed_url import ExposedUrls
from waggle.domain.programs.runtime import RuntimeName
from waggle.service.environments.service import CreateRequest

pytestmark = pytest.mark.anyio
PAGE = {"Accept": "text/html"}
REFUSED = "waggle: This link is not valid, or not any more. Ask for a new one.\n"


def by_host(setup: Setup | None = None, public: str = "") -> Setup:
    setup = setup or Setup()
    setup.urls = ExposedUrls(public, "box.test")
    return setup


async def test_a_token_of_the_owner_is_enough_and_any_other_is_not() -> None:
    async with exposed(ok, guarded(), owner="ann") as here, raw(here.rig) as http:
        path = f"{here.path}/"
        assert (await http.get(path, headers=bearer(ANN))).text == "ok"
        assert "authorization" not in here.program.last.headers
        stranger = await http.get(path, headers=bearer(BOB))
        missing = await http.get(path.replace("-4000-", "-4001-"), headers=bearer(BOB))
        assert stranger.status_code == missing.status_code == 404
        assert stranger.text.replace("-4000-", "-4001-") == missing.text
        assert (await http.get(path, headers=bearer(SCRAPER))).status_code == 403
        for headers in ({}, bearer("wgl_nope"), {"Authorization": "Basic YTpi"}):
            answer = await http.get(path, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer ")
        assert len(here.program.asked) == 1


async def test_a_browser_keeps_a_link_as_a_cookie_and_the_guest_never_sees_it() -> None:
    with capture_logs() as logs:
        async with exposed(ok, guarded(), owner="ann") as here, raw(here.rig) as http:
            token = here.token(minutes=10)
            url = f"{here.path}/a?x=1&waggle_link={token}&y=2"
            first = await http.get(url, headers=PAGE)
            assert first.status_code == 303
            assert first.headers["location"] == f"{here.path}/a?x=1&y=2"
            assert first.headers["referrer-policy"] == "no-referrer"
            assert first.headers["cache-control"] == "no-store"
            (cookie,) = SimpleCookie(first.headers["set-cookie"]).values()
            assert (cookie.value, cookie["path"]) == (token, f"{here.path}/")
            assert (cookie["max-age"], cookie["httponly"], cookie["samesite"]) == (
                "600",
                True,
                "Lax",
            )
            assert here.program.asked == []
            page = await http.get(first.headers["location"], headers=PAGE)
            assert page.text == "ok"
            assert page.headers["cache-control"] == "private"
            assert here.program.last.line == b"GET /a?x=1&y=2 HTTP/1.1"
            assert "cookie" not in here.program.last.headers
            assert token.encode() not in here.program.last.head
    assert token not in str(logs)


async def test_a_program_uses_the_url_of_a_link_as_it_is() -> None:
    async with exposed(ok, guarded(), owner="ann") as here, raw(here.rig) as http:
        answer = await http.post(f"{here.path}/?waggle_link={here.token()}", content=b"x")
        assert (answer.status_code, answer.text) == (200, "ok")
        assert "set-cookie" not in answer.headers
        assert here.program.last.line == b"POST / HTTP/1.1"


async def test_a_wrong_and_an_expired_link_are_refused_alike() -> None:
    now: list[datetime] = [NOW]
    setup = guarded()
    setup.clock = lambda: now[0]
    async with exposed(ok, setup, owner="ann") as here, raw(here.rig) as http:
        token = here.token(minutes=1)
        await here.rig.services.ports.expose(here.environment.id, 9000, owner="ann", wait_seconds=0)
        wrong = [
            f"{here.path}/?waggle_link={token[:-4]}AAAA",
            f"{here.path}/?waggle_link=",
            f"{here.path}/?waggle_link={token}&waggle_link={token}",
            f"/e/{here.environment.id}/9000/?waggle_link={token}",
            f"{here.path.replace('-4000-', '-4001-')}/?waggle_link={token}",
        ]
        now[0] += timedelta(seconds=61)
        wrong.append(f"{here.path}/?waggle_link={token}")
        for url in wrong:
            for headers in (PAGE, {}):
                answer = await http.get(url, headers=headers)
                assert (answer.status_code, answer.text) == (403, REFUSED)
        held = await http.get(f"{here.path}/", headers={"Cookie": f"waggle_link={token}"})
        assert (held.status_code, held.text) == (403, REFUSED)
        assert here.program.asked == []


async def test_a_link_ends_with_unexpose() -> None:
    async with exposed(ok, guarded(), owner="ann") as here, raw(here.rig) as http:
        headers = {"Cookie": f"waggle_link={here.token()}"}
        assert (await http.get(f"{here.path}/", headers=headers)).text == "ok"
        ports = here.rig.services.ports
        await ports.unexpose(here.environment.id, PORT, owner="ann")
        await ports.expose(here.environment.id, PORT, owner="ann", wait_seconds=0)
        assert (await http.get(f"{here.path}/", headers=headers)).status_code == 403


async def test_a_request_under_way_ends_when_its_link_expires() -> None:
    async def endless(talk: Conversation) -> None:
        await talk.say(b"HTTP/1.1 200 OK\r\n\r\nx")
        await talk.reader.read()

    setup = guarded()
    step = [timedelta(0)]
    setup.clock = lambda: NOW + step[0]
    async with exposed(endless, setup, owner="ann") as here, raw(here.rig) as http:
        token = here.token(minutes=1)
        step[0] = timedelta(seconds=59.9)
        with pytest.raises(httpx2.TransportError):
            await http.get(f"{here.path}/?waggle_link={token}")
        assert len(here.program.asked) == 1


async def test_authorization_beside_a_link_is_the_guests_unless_it_is_waggles() -> None:
    async with exposed(ok, guarded(), owner="ann") as here, raw(here.rig) as http:
        cookie = {"Cookie": f"waggle_link={here.token()}"}
        for value, passed in (
            ("Basic YTpi", True),
            ("Bearer of-the-guest", True),
            (f"Bearer {ANN}", False),
            (f"Bearer {BOB}", False),
        ):
            answer = await http.get(f"{here.path}/", headers={**cookie, "Authorization": value})
            assert answer.text == "ok"
            assert ("authorization" in here.program.last.headers) is passed
        both = [("Authorization", "Basic YTpi"), ("Authorization", f"Bearer {ANN}")]
        await http.get(f"{here.path}/", headers=[*cookie.items(), *both])
        assert "authorization" not in here.program.last.headers


async def test_without_authentication_the_plain_url_works_under_the_servers_names() -> None:
    async with exposed(ok) as here, raw(here.rig) as http:
        assert (await http.get(f"{here.path}/")).text == "ok"
        rebound = await http.get(f"{here.path}/", headers={"Host": "evil.test"})
        assert rebound.status_code == 421
        for origin in ("http://evil.test", "null", "http://localhost:3000", "http://127.0.0.1:1"):
            answer = await http.post(f"{here.path}/", headers={"Origin": origin})
            assert answer.status_code == 403, origin
        own = await http.post(f"{here.path}/", headers={"Origin": here.rig.url})
        assert own.text == "ok"
        assert here.program.last.headers["origin"] == f"http://localhost:{PORT}"


async def test_a_page_by_path_is_in_a_sandbox_and_one_by_host_is_not() -> None:
    async def page(talk: Conversation) -> None:
        await talk.say(
            b"HTTP/1.1 302 Found\r\nLocation: http://localhost:8000/in\r\nContent-Length: 0\r\n"
            b"Set-Cookie: sid=1; Path=/\r\nService-Worker-Allowed: /\r\n\r\n"
        )

    async with exposed(page, by_host()) as here, raw(here.rig) as http:
        answer = await http.get(f"{here.path}/")
        assert answer.headers["content-security-policy"].startswith("sandbox allow-scripts ")
        assert "allow-same-origin" not in answer.headers["content-security-policy"]
        assert answer.headers["location"] == f"{here.path}/in"
        assert answer.headers["set-cookie"] == f"waggle-e.sid=1; Path={here.path}/"
        assert "service-worker-allowed" not in answer.headers
        cookies = {"Cookie": "sid=other; waggle-e.sid=1; mcp=x"}
        await http.get(f"{here.path}/", headers=cookies)
        assert here.program.last.headers["cookie"] == "sid=1"
        answer = await http.get("/", headers={"Host": here.host, "Cookie": "sid=1; waggle_link=x"})
        assert "content-security-policy" not in answer.headers
        assert answer.headers["location"] == "/in"
        assert answer.headers["set-cookie"] == "sid=1; Path=/"
        assert here.program.last.headers["cookie"] == "sid=1"
        assert here.program.last.headers["x-forwarded-host"] == here.host
        assert "x-forwarded-prefix" not in here.program.last.headers


async def test_a_host_of_a_port_is_no_way_to_anything_else() -> None:
    async with exposed(ok, by_host()) as here, raw(here.rig) as http:
        for path in ("/mcp", "/healthz", "/metrics", f"{here.path}/", "/environments/x/terminal"):
            answer = await http.get(path, headers={"Host": here.host})
            assert answer.text == "ok"
            assert here.program.last.line == f"GET {path} HTTP/1.1".encode()
        for host in ("box.test", "x.box.test", f"{here.host}.evil.test"):
            assert (await http.get("/", headers={"Host": host})).status_code == 421
        unknown = here.host.replace(f"{PORT}-", "9000-", 1)
        assert (await http.get("/", headers={"Host": unknown})).status_code == 404


async def test_a_host_of_its_own_needs_a_link_or_a_token_too() -> None:
    setup = by_host(guarded(), "https://waggle.test")
    async with exposed(ok, setup, owner="ann") as here, raw(here.rig) as http:
        host = {"Host": here.host}
        assert (await http.get("/", headers=host)).status_code == 401
        assert (await http.get("/", headers={**host, **bearer(ANN)})).text == "ok"
        first = await http.get(f"/x?waggle_link={here.token()}", headers={**host, **PAGE})
        assert first.headers["location"] == "/x"
        assert first.headers["set-cookie"].startswith("__Host-waggle_link=")
        assert first.headers["set-cookie"].endswith("; Secure")
        cookie = first.headers["set-cookie"].partition(";")[0]
        answer = await http.get("/", headers={**host, "Cookie": f"waggle_link=x; {cookie}"})
        assert answer.text == "ok"
        assert here.program.last.headers["x-forwarded-proto"] == "https"
        for origin, status in (("https://evil.test", 403), (f"https://{here.host}", 200)):
            headers = {**host, "Cookie": cookie, "Origin": origin}
            assert (await http.post("/", headers=headers)).status_code == status


@pytest.mark.parametrize(
    "site, mode, referer, status",
    [
        ("same-origin", "no-cors", None, 200),
        ("none", "navigate", None, 200),
        ("cross-site", "navigate", "http://evil.test/", 200),
        ("same-site", "no-cors", None, 403),
        ("cross-site", "no-cors", "http://evil.test/", 403),
        ("same-site", "no-cors", "http://[bad", 403),
        ("same-site", "no-cors", "http://3000-{id}.box.test/", 200),
        ("same-site", "no-cors", "http://3000-ffffffff-0000-4000-8000-000000000001.box.test/", 403),
    ],
)
async def test_pages_of_other_environments_embed_nothing_of_a_host(
    site: str, mode: str, referer: str | None, status: int
) -> None:
    async with exposed(ok, by_host(guarded()), owner="ann") as here, raw(here.rig) as http:
        headers = {
            "Host": here.host,
            "Cookie": f"waggle_link={here.token()}",
            "Sec-Fetch-Site": site,
            "Sec-Fetch-Mode": mode,
            **({"Referer": referer.format(id=here.environment.id)} if referer else {}),
        }
        assert (await http.get("/data.js", headers=headers)).status_code == status


async def test_a_strangers_failure_says_nothing_of_the_owners_limits() -> None:
    setup = guarded()
    setup.max_environments = 1
    async with exposed(ok, setup, owner="ann") as here, raw(here.rig) as http:
        environments = here.rig.services.environments
        await environments.pause(here.environment.id, owner="ann", to_disk=True)
        await environments.create(CreateRequest(RuntimeName.PYTHON), owner="bob")
        mine = await http.get(f"{here.path}/", headers=bearer(ANN))
        assert (mine.status_code, "environments" in mine.text) == (503, True)
        link = await http.get(f"{here.path}/?waggle_link={here.token()}")
        assert link.status_code == 503
        assert link.text == "waggle: The environment cannot be used now; try again later.\n"


async def test_a_redirect_of_waggles_own_stays_on_its_host() -> None:
    async with exposed(ok, by_host(guarded()), owner="ann") as here:
        head = f"GET //evil.test/?waggle_link={here.token()} HTTP/1.1\r\nHost: {here.host}\r\n"
        answer = await here.sent(head.encode() + b"Accept: text/html\r\nConnection: close\r\n\r\n")
        assert b"\r\nlocation: /.//evil.test/\r\n" in answer


async def test_trace_is_not_passed_on() -> None:
    async with exposed(ok) as here, raw(here.rig) as http:
        assert (await http.request("TRACE", f"{here.path}/")).status_code == 405
        await until(lambda: here.program.asked == [])
