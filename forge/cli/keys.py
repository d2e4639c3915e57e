"""`forge keys`: who can read the archive, proved and changed. Works with a node that runs and without."""

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from forge.cli.errors import CliError, ExitCode, stopped_by_hand
from forge.cli.options import data_dir_option, invocation, json_option
from forge.cli.output import emit, table
from forge.cli.store_errors import no_store, store_errors

if TYPE_CHECKING:  # the libraries of the store take longer to import than `forge --help` may take
    from forge.keys.access import KeyAccess
    from forge.keys.rotation import Progress
    from schemas.encryption import RecipientsRecord

MORE = "docs/encryption.md"
SAMPLES = 200
TOLD_EVERY_S = 2.0
READS = {"all": "everything", "new": "what is new since it came", "old": "what was old when it went"}


@click.group()
def keys() -> None:
    """See, prove and change who can read the archive."""


@keys.command("list")
@data_dir_option
@json_option
def list_keys() -> None:
    """List for whom the archive is encrypted, what each can read, and which key is the one here."""

    async def run(access: "KeyAccess") -> dict[str, Any]:
        record = (await access.keyring.read()).record
        return _state(access, record)

    state = _with_keys(run)
    emit(state, _listing(state), as_json=invocation().json)


@keys.command()
@click.option("--samples", type=click.IntRange(1), default=SAMPLES, metavar="N", help="How many objects to open.")
@click.option("--all", "everything", is_flag=True, help="Open every object.")
@click.option("--seed", type=int, help="Pick the same objects again; printed with the result.")
@data_dir_option
@json_option
def check(samples: int, everything: bool, seed: int | None) -> None:
    """Prove that the key here opens the archive, and that nothing lies in the clear that should not.

    Ends with 4 if it is the wrong key, with 7 if an object is not as it should be.
    """
    chosen = random.SystemRandom().randrange(1 << 30) if seed is None else seed

    async def run(access: "KeyAccess") -> dict[str, Any]:
        from forge.keys.survey import survey

        if (record := await access.keyring.admit()) is None:
            return {"archive": access.name, "encrypted": False, "wanted": bool(access.settings.recipients)}
        count = None if everything else samples
        found = await survey(access.store, access.prefix, access.keyring, samples=count, rng=random.Random(chosen))
        looked = found.opened + found.clear + found.not_opened
        return {
            "archive": access.name,
            "encrypted": True,
            "revision": record.revision,
            "objects": found.objects,
            "looked_at": looked,
            "opened": found.opened,
            "clear": found.clear,
            "clear_by_mistake": found.clear_by_mistake,
            "not_opened": found.not_opened,
            "problems": found.problems,
            "seed": chosen,
        }

    state = _with_keys(run)
    emit(state, _checked(state), as_json=invocation().json)
    if problems := state.get("problems"):
        lost, fix = state["not_opened"], "`forge keys rotate` encrypts what is in the clear"
        raise CliError(
            "forge keys check",
            problems[0],
            "give the keys that opened it before in FORGE_IDENTITY_FILE, commas between" if lost else fix,
            MORE,
            ExitCode.DATA_FAULT,
        )


@keys.command()
@click.option("--new-node-key", is_flag=True, help="Give this node a new key first.")
@data_dir_option
@json_option
def rotate(new_node_key: bool) -> None:
    """Encrypt the archive for the recipients of the settings and for this node, and for nobody else.

    Stop the node first; it may be started again as soon as this says that new objects are encrypted so. Whatever is in
    the clear and should not be is encrypted, too. Killed, it goes on when it is run again.
    """

    async def begin(access: "KeyAccess") -> "tuple[str, Progress | None]":
        unfinished = "" if new_node_key else await _unfinished(access)
        recipients = unfinished or await _begin(access, new_node_key)
        # A store of our own runs no longer than this block; else the data directory is let go, for a node to start.
        when = "when this is done" if access.embedded else "now"
        click.echo(f"New objects are encrypted for {recipients}. The node may be started {when}.", err=True)
        return recipients, await _rotate(access.again()) if access.embedded else None

    fix = "run it again: it goes on where it was; keep all keys until it is done"
    with stopped_by_hand("forge keys rotate", fix, MORE):
        recipients, done = _with_keys(begin, hold=True)
        done = done or _with_keys(_rotate)
    state = {"objects": done.objects, "rewritten": done.rewritten, "recipients": recipients}
    emit(state, f"{done.objects} objects looked at, {done.rewritten} encrypted again.", as_json=invocation().json)


async def _rotate(access: "KeyAccess") -> "Progress":
    from forge.keys.rotation import rotate

    return await rotate(access, _telling())


async def _unfinished(access: "KeyAccess") -> str:
    """Return for whom a rotation is under way that is still wanted so, empty if none is."""
    from events.objects.keyring import named
    from forge.keys.rotation import under_way

    record = await access.keyring.admit()
    wanted = {one.public for one in access.keyring.wanted(make=True)}
    if record is None or not under_way(record) or record.current.publics() != wanted:
        return ""
    return named(record.current.recipients)


async def _begin(access: "KeyAccess", new_node_key: bool) -> str:
    from events.objects.keyring import named
    from forge.keys.rotation import begin, replace_node_key

    if not access.settings.recipients:
        why, fix = "FORGE_RECIPIENTS is not set", "set it to the public keys of those who may read"
        raise CliError("forge keys rotate", why, fix, MORE, ExitCode.USAGE)
    await access.keyring.admit()  # before anything is changed
    if new_node_key and access.settings.identity_file:
        why = "FORGE_IDENTITY_FILE names a key of yours, which is not replaced"
        fix = "make one yourself, and name it before the present one: FORGE_IDENTITY_FILE=new,present"
        raise CliError("forge keys rotate --new-node-key", why, fix, MORE, ExitCode.USAGE)
    async with access.writing():  # nobody else may encrypt for the former ones any more
        if new_node_key:
            await asyncio.to_thread(replace_node_key, access.settings)
        return named((await begin(access.again())).current.recipients)


def _telling() -> "Callable[[Progress], None]":
    """Return what tells a person now and then how far it is."""
    told = time.monotonic()

    def tell(progress: "Progress") -> None:
        nonlocal told
        if sys.stderr.isatty() and time.monotonic() - told > TOLD_EVERY_S:
            told = time.monotonic()
            click.echo(f"{progress.objects} objects looked at, {progress.rewritten} encrypted again ...", err=True)

    return tell


def _state(access: "KeyAccess", record: "RecipientsRecord | None") -> dict[str, Any]:
    from events.objects.age import Recipient
    from forge.keys.rotation import under_way

    ours = {one.recipient.public for one in access.identities()}
    found = record.reads() if record else []
    return {
        "archive": access.name,
        "prefix": access.prefix,
        "encrypted": record is not None,
        "revision": record.revision if record else None,
        "rotating": under_way(record),
        "wanted": bool(access.settings.recipients),
        "recipients": [
            {
                "name": one.name,
                "role": one.role,
                "fingerprint": Recipient(one.public).fingerprint,
                "reads": reads,
                "here": one.public in ours,
                "public": one.public,
            }
            for one, reads in found
        ],
        "here": sorted(ours),
    }


def _listing(state: dict[str, Any]) -> str:
    head = f"archive  {state['archive']}, below {state['prefix']}"
    here = "".join(f"\nhere     {public}" for public in state["here"]) or "\nhere     no key"
    if not state["encrypted"]:
        return f"{head}{here}\n\n{_not_encrypted(state)}"
    rows = [
        (one["name"] or "-", one["role"], one["fingerprint"], READS[one["reads"]], "here" if one["here"] else "")
        for one in state["recipients"]
    ]
    rotating = "\n\nA rotation is not done: `forge keys rotate` goes on with it." if state["rotating"] else ""
    return f"{head}{here}\n\n{table(('NAME', 'ROLE', 'FINGERPRINT', 'READS', ''), rows)}{rotating}"


def _not_encrypted(state: dict[str, Any]) -> str:
    fix = "`forge keys rotate` encrypts what is there" if state["wanted"] else "set FORGE_RECIPIENTS"
    return f"Not encrypted: {fix}."


def _checked(state: dict[str, Any]) -> str:
    if not state["encrypted"]:
        return _not_encrypted(state)
    lines = [
        f"The key here opens the archive: revision {state['revision']} of its recipients.",
        f"{state['looked_at']} of {state['objects']} objects looked at (--seed {state['seed']}): {state['opened']} "
        f"encrypted and opened, {state['clear']} in the clear.",
    ]
    return "\n".join([*lines, *(f"wrong: {problem}" for problem in state["problems"])])


def _with_keys(work: "Callable[[KeyAccess], Awaitable[Any]]", *, hold: bool = False) -> Any:
    """Run `work` with the object store of this call's settings; explain what goes wrong."""
    from forge.datadir import DataDirBusy, DataDirError
    from forge.keys.access import AnotherWrites, DaemonsArchive, NoObjectStore, key_access
    from forge.keys.rotation import RecipientsChanged
    from forge.logs import configure_logs
    from forge.stack.errors import StackError
    from workers.lease.errors import LeaseError

    async def run() -> Any:
        async with key_access(invocation().settings(), hold=hold) as access:
            return await work(access)

    what = click.get_current_context().command_path
    configure_logs("error")  # what was waited for, and went well, is nothing to tell here
    try:
        with store_errors(what, MORE):
            return asyncio.run(run())
    except NoObjectStore as error:
        raise no_store(what) from error
    except DaemonsArchive as error:
        fix = f"name its prefix: FORGE_S3_PREFIX={error.prefix} {what}"
        raise CliError(what, str(error), fix, "docs/replicate-daemon.md", ExitCode.NOT_FOUND) from error
    except LeaseError as error:
        raise CliError(what, str(error), "mend what the reason names", MORE, ExitCode.NOT_READY) from error
    except AnotherWrites as error:
        fix = "stop that node, or rotate where it runs"
        raise CliError(what, str(error), fix, MORE, ExitCode.CONFLICT) from error
    except RecipientsChanged as error:
        raise CliError(what, str(error), "run it again", MORE, ExitCode.CONFLICT) from error
    except DataDirBusy as error:
        fix = f"stop the node first: kill {error.pid}" if error.pid else "try again in a moment"
        raise CliError(what, str(error), fix, "forge status", ExitCode.CONFLICT) from error
    except (DataDirError, StackError) as error:
        raise CliError(what, str(error), "mend what the reason names") from error
