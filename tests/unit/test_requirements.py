"""What documents must do, each requirement with an id and a sentence, and with at least one test that names it."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PROMISES = {
    "PR1": "An answered mutation is on disk, and neither a kill nor a power cut loses it.",
    "PR2": "The changes of a partition have one order, and copies at one position have one digest.",
    "PR3": "A refused mutation never appears later, and two writers never both win one index.",
    "PR4": "Every SQLite file can be deleted and made again from the log, with the same digest.",
    "PR5": "To repeat a request is safe: it has its effect once, and gets the first answer.",
    "PR6": "Nobody reads or writes beyond the scopes of a token, and SQL stays in its document.",
    "PR7": "All that grows has a bound, and past it a caller hears 413, 429 or 503 and when to come back.",
    "PR8": "One machine needs nothing but Forge: no container, no cloud, no configuration.",
}
REQUIREMENTS = {
    "P0.3": "A document is made once under a valid name, also when many ask at once, and only by those who may.",
    "P0.7": "A document has one writer, and does not hold up others.",
    "P0.8": "What waits is counted and bounded, and a caller that leaves takes its work along.",
    "P0.9": "A document that nobody uses holds no file and no thread, and comes back with the next request.",
    "P0.10": "A snapshot that is taken under writes is whole, and its size and position are told.",
    "P0.11": "Each commit is told in the change feed, and what was rolled back is not.",
    "P0.12": "Code in the process hears commits in their order, and cannot harm them.",
    "P0.13": "Older files are brought up to date whole or not at all, and files of a newer Forge are refused.",
    "P0.14": "A request leaves a line with its id, route, status and time, and no line has a secret or a value.",
    "P1.3": "Documents and tokens know who made them, and each change of the control plane is in the audit.",
    "P1.4": "Of a token only a hash is stored, and a part that people recognise it by.",
    "P1.5": "Tokens are minted, listed and revoked over HTTP, and nonsense is refused with its reason.",
    "P1.9": "The Authorization header is taken in its usual forms, and in no other.",
    "P1.10": "A token that is not known opens nothing.",
    "P1.11": "A token ends at the moment at which it expires.",
    "P1.12": "A scope is an action on documents, perhaps below a resource, and is decided before the body is read.",
    "P1.13": "Rates are limited for all, per token and per document, in tables of bounded size.",
    "P2.1": "Statements run over HTTP, and rows, counts and every value come back as they are.",
    "P2.2": "Arguments keep their types and must fit, and one statement is one statement.",
    "P2.3": "Who may read cannot write, whatever the text looks like.",
    "P2.4": "Who may write rows cannot change the schema or what is Forge's own.",
    "P2.5": "Who may change the schema cannot leave the document or keep a transaction open.",
    "P2.6": "Time, rows and bytes are bounded, and a runaway query is interrupted.",
    "P2.7": "A watch answers at once, lives on while nothing happens, and misses no commit.",
    "P2.8": "A watch tells the result, its changes, that it lives and why it ends; slow readers get fewer of them.",
    "P2.9": "Equal results have equal hashes, in every process, and different ones do not.",
    "P2.10": "Every commit that may matter is looked at once for all who watch the same.",
    "P3.1": "Messages are rows with their exact bytes, and are found by topic through an index.",
    "P3.2": "A message has one payload in one of three forms, and whoever publishes it hears its number.",
    "P3.3": "A payload has a mebibyte at most, whatever its form, and no more is read than that may take.",
    "P3.4": "A message is on disk before its publisher hears of it.",
    "P3.5": "A stream begins at once, and tells what comes without looking for it.",
    "P3.6": "Several filters give each message once, and none picks anything that its caller may not have.",
    "P3.7": "A stream begins anywhere, and misses or repeats nothing where what was ends and what comes begins.",
    "P3.8": "Filters pick what MQTT says that they pick.",
    "P3.9": "The last value of a topic is kept if its publisher says so.",
    "P3.10": "Messages are kept for ever, unless a policy says which; then exactly those are removed.",
    "P3.11": "A message is published once under its key.",
    "P4.1": "A message goes to exactly one receiver, first come, first served on both sides.",
    "P4.2": "A broadcast goes once to all who listen, and none of them holds up another.",
    "P4.3": "Who asks gets the answer to his own request, and an answer that nobody waits for reaches nobody.",
    "P4.4": "A responder answers later at a name of its own, and an answer that does not come is a 504 on the wire.",
    "P4.5": "Headers and status cross the relay as they were meant, and none that could do harm.",
    "P4.6": "A topic is received from at its own path.",
    "P4.7": "A topic is sent to at its own path, whatever its name.",
    "P4.8": "A request may have any method, which its responder is told.",
    "P4.9": "Requests are answered in advance, after they were taken, or at a name.",
    "P4.10": "Older paths are channels of documents.",
    "P4.11": "Sending and receiving are two scopes, whatever the form.",
    "P4.12": "Bodies of any size pass in little memory.",
    "P5.1": "Webhooks are rows, found by endpoint and by delivery.",
    "P5.2": "A webhook goes to an endpoint of any depth, within a size, and its sender hears that it is kept.",
    "P5.3": "Who may send webhooks sends them to the endpoints of the scope, and to no other.",
    "P5.4": "A webhook is kept with its exact bytes and its headers, without credentials.",
    "P5.5": "A webhook is there if and only if its sender was told so.",
    "P5.6": "Columns that users have added or reordered do not matter.",
    "P5.7": "The queries of the documentation run.",
    "P5.8": "A check of signatures says valid, invalid, or that nobody can tell, and may reject.",
    "P6.1": "Leases are rows, and of their secrets only hashes.",
    "P6.2": "A lease is granted with the next number, unless somebody holds it.",
    "P6.3": "Its holder, and nobody else, makes a lease last longer.",
    "P6.4": "A lease is given back once or again, and its number stays taken.",
    "P6.5": "Numbers of leases only grow, whatever happens.",
    "P6.6": "Time is taken where a lease is decided, not where it was asked for.",
    "P5.X": "Webhooks are kept also where users have changed their table.",
    "P6.7": "A change that rests on a lease that is not held is refused.",
    "P6.X": "Of many contenders one holds a lease at a time, also over kills and jumps of the clock.",
    "P8.1": "Of each older surface it is said what became of it, and proved.",
    "P8.4": "Thousands wait at a stated price.",
    "P8.6": "A webhook that is kept in part, or told as kept and is not, does not exist.",
    "P8.7": "At the edge of its time a lease is held by one or by nobody.",
    "D.4": "Signatures of providers are checked on the raw bytes, and secrets are encrypted where they rest.",
    "D.2": "A watch is evaluated again only after changes of what it reads.",
    "K0.1": "Whatever is repeated, delayed or cut off, the same history gives the same content.",
    "K0.2": "A position has one form and is ordered by epoch, then index; what is none, or not here, is refused.",
    "K0.3": "There is one durability, on disk before the answer, and a log that does less gets no writes.",
    "K0.4": "What is not asked for is not started, loaded or spoken to.",
    "K0.5": "Each guarantee has an id, and a test that names it.",
    "K0.6": "Positions, headers and records as they were once stored are read for ever.",
    "K2.1": "The log is read in slices by position, of any size, with no dead end.",
    "K2.2": "A slice shows every flipped bit, gap, repetition and foreign record.",
    "K2.3": "Slices come over HTTP, waiting if asked to, and each place that cannot be served has its own status.",
    "K2.4": "A replica applies records in order, rows and position together, so that a kill leaves both or neither.",
    "K2.5": "A replica goes on from where it was, after a restart as well.",
    "K2.6": "Records that come again change nothing.",
    "K3.1": "A snapshot is a file that can be fetched in parts, and goes on after a break.",
    "K3.2": "A snapshot says what it is: position, hashes, sizes, and where the log goes on.",
    "K3.3": "A replica begins with a snapshot while the document is written, and survives a kill at each step.",
    "K3.4": "A snapshot and the log after it fit together, or the replica is refused.",
    "K3.5": "At the same position the node, its replicas and a replay from the beginning are equal.",
    "K4.1": "What is known of a replica's position never goes back, never lies ahead, and survives the node.",
    "K4.2": "The log keeps what a live replica, the archive or a generation needs, and a dead replica holds up nobody.",
    "K4.3": "Replicas are listed, evicted and recalled by command and over HTTP, and the audit tells it.",
    "K4.4": "What is archived leaves the server without anybody missing it, whenever something is killed.",
    "K4.5": "Each replica is in one of eight states, and one that cannot go on starts anew by itself.",
    "K6.1": "Metrics say how far each replica is behind, in records, bytes and seconds, with bounded labels.",
    "K6.4": "Dashboards and alerts name only metrics that exist, and each alert was seen firing and silent.",
    "K6.5": "Each alert leads to a section that says what to do.",
}
BEYOND = re.compile(r"P0\.5|P1\.[78]|P2\.X|K3\.6")
"""Ids that some tests name although they are not due yet, or sum up others."""
ID = re.compile(r"\b(?:PR\d+|P\d\.(?:\d+|X)|D\.\d+|K\d\.\d+)\b")


def named() -> dict[str, set[str]]:
    """Return for each id the tests whose docstrings name it."""
    found = defaultdict(set)
    for file in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                for one in ID.findall(ast.get_docstring(node) or ""):
                    found[one].add(f"{file.relative_to(TESTS)}::{node.name}")
    return found


NAMED = named()


@pytest.mark.parametrize("one", [*PROMISES, *REQUIREMENTS])
def test_each_promise_and_requirement_has_a_test_that_names_it(one: str) -> None:
    """K0.5."""
    assert NAMED[one], f"no test has {one} in its docstring: {(PROMISES | REQUIREMENTS)[one]}"


def test_no_test_names_what_is_no_requirement() -> None:
    """K0.5: a misspelt id would stand for nothing."""
    unknown = {one: tests for one, tests in NAMED.items() if one not in PROMISES | REQUIREMENTS}
    assert {one: tests for one, tests in unknown.items() if not BEYOND.fullmatch(one)} == {}
