"""Scripts that people have for the older relay, run by sh and curl: each works here (P4.10, P4.X)."""

import pytest

from tests.acceptance.conftest import StartRelay
from tests.acceptance.relay_scripts import RelayNode

pytestmark = pytest.mark.asyncio(loop_scope="module")

IDLE_S, IDLE_LONG_S = 2, 60


@pytest.mark.parametrize(("space", "channel"), [("p", "mail"), ("public", "queue/x")])
async def test_a_message_goes_over_whoever_comes_first(relay: RelayNode, space: str, channel: str) -> None:
    """A.1, A.2, L.1: send then receive, receive then send."""
    script = """
        patchwork receive -n $SPACE $CHANNEL >got & receiver=$!
        waiting receivers 1
        printf 'first\\n' | patchwork send -n $SPACE $CHANNEL
        wait $receiver
        cat got
        printf 'second\\n' | patchwork send -n $SPACE $CHANNEL & sender=$!
        waiting senders 1
        patchwork receive -n $SPACE $CHANNEL
        wait $sender
    """
    assert await relay.run(script, SPACE=space, CHANNEL=channel) == "first\nsecond\n"


async def test_both_old_names_of_the_public_space_are_one(relay: RelayNode) -> None:
    """L.2: what is sent at /p is received at /public."""
    script = """
        curl -sf $URL/public/queue/both & receiver=$!
        waiting receivers 1
        curl -sf $URL/p/queue/both -d 'one space'
        wait $receiver
    """
    assert await relay.run(script) == "one space"


@pytest.mark.parametrize("listeners", [0, 1, 3])
async def test_a_broadcast_reaches_all_who_listen(relay: RelayNode, listeners: int) -> None:
    """A.3, L.3, L.42: at once, also if that is nobody."""
    script = """
        for n in $(seq $LISTENERS); do
            patchwork receive news >got.$n & waits="${waits-} $!"
        done
        waiting receivers $LISTENERS
        printf 'all hands\\n' | patchwork send -m pubsub news
        for one in ${waits-}; do wait $one; done
        cat /dev/null $(ls got.* 2>/dev/null || true)
        curl -s -D - -o /dev/null "$URL/p/news?pubsub" -d again | tr -d '\\r' | grep -i '^patch-delivered'
    """
    printed = (await relay.run(script, LISTENERS=str(listeners))).splitlines()
    assert printed == ["all hands"] * listeners + ["Patch-Delivered: 0"]


async def test_a_link_carries_its_message(relay: RelayNode) -> None:
    """A.4, L.20: `-g`, whatever is in it."""
    text = "50 % of ä & b=c + d?#\nand a second line"
    script = """
        patchwork receive door >got & receiver=$!
        waiting receivers 1
        printf %s "$TEXT" | patchwork send -g door
        wait $receiver
        cat got
    """
    assert await relay.run(script, TEXT=text) == text


async def test_a_listener_prints_what_begins_with_its_prefix(relay: RelayNode) -> None:
    """A.5: and is ended by a signal, with the curl that it waits for."""
    script = """
        sh "$CLIENT" listen events >heard & listener=$!
        for text in 'notify kettle' 'something else' 'notify door bell'; do
            printf %s "$text" | patchwork send events
        done
        lines heard 2
        waiting receivers 1
        kill $listener
        waiting receivers 0
        cat heard
    """
    assert await relay.run(script) == "kettle\ndoor bell\n"


async def test_a_shared_file_arrives_whole(relay: RelayNode) -> None:
    """A.6, L.29: ten times as large as what is read ahead."""
    script = """
        head -c 10485760 /dev/urandom >'a picture.raw'
        patchwork share 'a picture.raw' & sharer=$!
        waiting senders 1
        patchwork download 'a picture.raw' copy.raw
        wait $sharer
        cmp 'a picture.raw' copy.raw && wc -c <copy.raw
        ls
    """
    assert await relay.run(script) == "10485760\na picture.raw\ncopy.raw\npatchwork.sh\n"


async def test_each_job_is_done_once(relay: RelayNode) -> None:
    """A.7: 20 producers, 3 workers."""
    script = """
        worker() {
            while job=$(curl -sf $URL/public/queue/jobs); do
                [ "$job" != stop ] || break
                echo "$job" >>done.$1
            done
        }
        for n in 1 2 3; do worker $n & workers="${workers-} $!"; done
        for n in $(seq 20); do curl -sf $URL/public/queue/jobs -d "job $n" & producers="${producers-} $!"; done
        for one in $producers; do wait $one; done
        for n in 1 2 3; do curl -sf $URL/public/queue/jobs -d stop; done
        for one in $workers; do wait $one; done
        cat done.* | sort -k2n
    """
    assert await relay.run(script) == "".join(f"job {n}\n" for n in range(1, 21))


@pytest.mark.parametrize("idle_s", [IDLE_S, pytest.param(IDLE_LONG_S, marks=pytest.mark.long)])
async def test_a_notification_comes_through_after_a_pause(relay: RelayNode, idle_s: int) -> None:
    """A.8, L.28, S14: a wait has no end of its own, and nothing is lost at one."""
    script = """
        for n in 1 2 3; do curl -sf $URL/p/bell; echo; done >heard & listener=$!
        for n in 1 2 3; do
            waiting receivers 1
            sleep $IDLE
            curl -sf $URL/p/bell -d "ring $n"
        done
        wait $listener
        cat heard
    """
    printed = await relay.run(script, within_s=60 + 4 * idle_s, IDLE=str(idle_s))
    assert printed == "ring 1\nring 2\nring 3\n"


async def test_a_user_space_takes_tokens_in_url_and_header(relay: RelayNode) -> None:
    """A.9, L.9, L.53, L.54, L.59, L.60: and who may only read writes in no way."""
    await relay.create("alice")
    both = await relay.mint(("stream.read", "alice"), ("stream.write", "alice"))
    reads = await relay.mint(("stream.read", "alice"))
    script = """
        for way in url Bearer token bare; do
            case $way in
                url) set -- ;;
                bare) set -- -H "Authorization: $BOTH" ;;
                *) set -- -H "Authorization: $way $BOTH" ;;
            esac
            patchwork receive -n u/alice -t "$READS" desk >got & receiver=$!
            waiting receivers 1
            if [ $way = url ]; then printf hello | patchwork send -n u/alice -t "$BOTH" desk
            else status "$@" "$URL/u/alice/desk" -d hello; fi
            wait $receiver
            cat got; echo
        done
        status "$URL/u/alice/desk?token=$READS" -d no
        status "$URL/u/alice/desk?token=$READS" -X PUT -d no
        status "$URL/u/alice/desk?token=$READS&body=no"
        status "$URL/u/alice/req/desk?token=$READS"
        status "$URL/u/alice/desk?token=$ROOT" -d 'a token that is not for URLs'
    """
    printed = (await relay.run(script, BOTH=both, READS=reads)).split()
    assert printed == ["hello", *["200", "hello"] * 3, "403", "403", "403", "403", "401"]


async def test_a_user_space_without_a_token_needs_its_owners_leave(relay: RelayNode) -> None:
    """A.10, L.55: `guest` is open to everybody here, `alice` is not."""
    await relay.create("alice")
    script = """
        status "$URL/u/guest/desk" >sent & receiver=$!
        waiting receivers 1
        status "$URL/u/guest/desk" -d hello
        wait $receiver
        cat sent
        status "$URL/u/alice/desk" -d hello
        status "$URL/u/alice/desk"
        status "$URL/u/guest/desk?token=wrong" -d hello
    """
    assert (await relay.run(script)).split() == ["200", "200", "401", "401", "401"]


async def test_a_responder_loop_answers_everybody(relay: RelayNode) -> None:
    """A.11, L.12: each of 10 requesters has an answer of its own."""
    script = """
        for n in $(seq 10); do curl -sf $URL/public/res/ticket -d "ticket $n"; done & responder=$!
        for n in $(seq 10); do curl -sf $URL/public/req/ticket >got.$n & requesters="${requesters-} $!"; done
        for one in $requesters; do wait $one; done
        wait $responder
        for n in $(seq 10); do cat got.$n; echo; done | sort -k2n
    """
    assert await relay.run(script) == "".join(f"ticket {n}\n" for n in range(1, 11))


async def test_an_answer_has_the_status_and_headers_of_its_responder(relay: RelayNode) -> None:
    """A.12, L.31, L.33: status and headers together."""
    script = """
        curl -s $URL/public/res/greet -H 'Patch-Status: 201' -H 'Patch-H-X-Room: 5' -H 'Content-Type: text/x-note' \
            -d 'made' & responder=$!
        curl -s -X DELETE -D head "$URL/public/req/greet?who=mia"; echo
        tr -d '\\r' <head | grep -iE '^(HTTP|content-type|x-room)'
        wait $responder
    """
    printed = (await relay.run(script)).lower().splitlines()
    assert set(printed) == {"made", "http/1.1 201 created", "content-type: text/x-note", "x-room: 5"}


async def test_switch_workers_answer_each_request_by_itself(relay: RelayNode) -> None:
    """A.13, L.14, L.32, L.35: the number is in the URL of the request, the answer goes to a channel by name."""
    script = """
        worker() {
            turn=0
            while :; do
                turn=$((turn + 1))
                reply=reply-$1-$turn-$$
                curl -sf -D head.$1 "$URL/public/res/square?switch=true" -d $reply >/dev/null
                number=$(sed -n 's/^[Pp]atch-[Uu]ri:.*[?&]n=\\([0-9]*\\).*/\\1/p' head.$1)
                curl -sf "$URL/public/$reply" -d $((number * number))
                [ "$number" != 0 ] || break
            done
        }
        for n in 1 2 3; do worker $n & workers="${workers-} $!"; done
        for n in $(seq 10); do curl -sf "$URL/public/req/square?n=$n" >got.$n & requesters="${requesters-} $!"; done
        for one in $requesters; do wait $one; done
        for n in $(seq 10); do cat got.$n; echo; done
        for n in 1 2 3; do curl -sf "$URL/public/req/square?n=0" >/dev/null; done
        for one in $workers; do wait $one; done
    """
    assert (await relay.run(script)).split() == [str(n * n) for n in range(1, 11)]


NO_ANSWER = """
    curl -sf "$URL/public/res/slow?switch" -d never-posted >/dev/null & responder=$!
    curl -s -w '%{http_code} %{time_total}\\n' "$URL/public/req/slow" -d question
    wait $responder
"""


async def test_a_switch_without_an_answer_is_seen_by_the_requester(start_relay: StartRelay) -> None:
    """A.14, L.18: 504 on the wire, with a sentence; here after 2 s."""
    timeout_s = 2
    relay = await start_relay(FORGE_RELAY_SWITCH_TIMEOUT_S=str(timeout_s))
    text, last = (await relay.run(NO_ANSWER)).splitlines()
    assert "2 s" in text
    status, seconds = last.split()
    assert status == "504"
    assert float(seconds) >= timeout_s


@pytest.mark.long
async def test_a_switch_waits_30_s_by_default(relay: RelayNode) -> None:
    """A.14, S9."""
    status, seconds = (await relay.run(NO_ANSWER)).splitlines()[-1].split()
    assert status == "504"
    assert float(seconds) >= 30


async def test_a_link_in_a_browser_tells_all_listeners(relay: RelayNode) -> None:
    """A.15: `GET ?pubsub=true&body=`."""
    script = """
        for n in 1 2; do curl -sf $URL/p/door >got.$n & waits="${waits-} $!"; done
        waiting receivers 2
        curl -sf "$URL/p/door?pubsub=true&body=ring%20twice"
        for one in $waits; do wait $one; done
        cat got.1 got.2
    """
    assert await relay.run(script) == "ring twice" * 2


async def test_an_address_has_20_quick_requests(start_relay: StartRelay) -> None:
    """A.16, L.25, L.26: the 21st to 25th hear 429 and when to come back; another address is not affected.

    Whatever an address says about itself changes nothing.
    """
    relay = await start_relay(FORGE_RATE_ANONYMOUS="0.01", FORGE_RATE_ANONYMOUS_BURST="20")
    script = """
        for n in $(seq 25); do status "$URL/p/news?pubsub" -H "X-Forwarded-For: 192.0.2.$n" -d x; done
        status --interface 127.0.0.2 "$URL/p/news?pubsub" -d x
        curl -s -D - -o /dev/null "$URL/public/news" | grep -ci '^retry-after: [1-9]'
    """
    assert (await relay.run(script)).split() == ["200"] * 20 + ["429"] * 5 + ["200", "1"]


async def test_hooks_work_and_cannot_be_forged(relay: RelayNode) -> None:
    """A.17, L.44 to L.47: write with the secret, read without, and the other way round."""
    script = """
        field() { sed -n "s/.*\\"$1\\": *\\"\\([^\\"]*\\)\\".*/\\1/p" $2; }
        curl -sf $URL/h >hook
        channel=$(field channel hook) secret=$(field secret hook)
        patchwork receive -n h $channel >got & receiver=$!
        waiting receivers 1
        for forged in "" "?secret=" "?secret=0${secret#?}x" "?secret=$(echo $secret | tr a-f A-F)x"; do
            status "$URL/h/$channel$forged" -d forged
        done
        status "$URL/h/$channel?body=forged"
        status "$URL/h/$channel" -X PUT -d forged
        echo ring | patchwork send -n h -s $secret $channel
        wait $receiver
        cat got

        curl -sf $URL/r >hook
        channel=$(field channel hook) secret=$(field secret hook)
        status "$URL/r/$channel"
        status "$URL/r/$channel?secret=wrong"
        patchwork receive -n r -s $secret $channel >got & receiver=$!
        waiting receivers 1
        echo knock | patchwork send -n r $channel
        wait $receiver
        cat got
    """
    printed = (await relay.run(script)).split()
    assert printed == ["401"] * 5 + ["405", "ring", "401", "401", "knock"]


async def test_probes_find_a_healthy_node(relay: RelayNode) -> None:
    """A.18, L.61, L.62, L.69: /status needs a token now."""
    script = """
        forge healthcheck --url $URL
        forge healthcheck --url $URL/healthz
        curl -sf $URL/healthz; echo
        curl -sf -H 'Accept: text/plain' $URL/healthz
        status $URL/status
        curl -sf -H "Authorization: Bearer $ROOT" $URL/status >/dev/null
    """
    assert (await relay.run(script)).split() == ["OK!", "OK!", '{"status":"ok"}', "OK!", "401"]
