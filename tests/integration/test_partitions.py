"""Many partitions on one node: how many stay open, and what closing one means for the next who wants it."""

from pathlib import Path

from ulid import ULID

from forge.stack.nats import NatsServer
from projectors.document.domain import document_domain, document_partition
from projectors.document.sql.bounds import SqlBounds
from projectors.partitions import Partitions
from schemas.document import RunSql, SqlClass, Statement
from schemas.ids import PartitionId
from tests.notes import eventually, opened_log

ALL: tuple[SqlClass, ...] = ("read", "write", "admin")


def sql(*statements: str) -> RunSql:
    return RunSql(statements=tuple(Statement(sql=one) for one in statements), classes=ALL)


def new_document() -> PartitionId:
    return document_partition(f"doc-{str(ULID()).lower()}")


async def test_a_partition_asked_for_while_it_closes_opens_after_it(nats_server: NatsServer, tmp_path: Path) -> None:
    """P0.9: nobody meets the files of a closing one, which would cost seconds."""
    async with opened_log(nats_server) as event_log:
        domain = document_domain(tmp_path, SqlBounds())
        partitions = Partitions(event_log, {"doc": domain}, node="test-node", idle_s=300, open_max=1)
        first, other = new_document(), new_document()
        try:
            await partitions.submit(first, sql("CREATE TABLE t (n)"), principal="root")
            for number in range(1, 21):
                await partitions[other].ready(60)  # so that the first is closed, now or in a moment
                await partitions.submit(first, sql("INSERT INTO t VALUES (1)"), principal="root")
                answer = await partitions.submit(first, sql("SELECT count(*) FROM t"), principal="root")
                assert answer.value["results"][0]["rows"] == [(number,)]
                assert partitions[first].stopped_because is None
        finally:
            await partitions.close()


async def test_no_more_partitions_stay_open_than_the_bound(nats_server: NatsServer, tmp_path: Path) -> None:
    """PR7, P0.9: the least recently used are closed, with their files."""
    async with opened_log(nats_server) as event_log:
        domain = document_domain(tmp_path, SqlBounds())
        partitions = Partitions(event_log, {"doc": domain}, node="test-node", idle_s=300, open_max=3)
        try:
            documents = [new_document() for _ in range(10)]
            for document in documents:
                await partitions.submit(document, sql("CREATE TABLE t (n)"), principal="root")
            await eventually(lambda: len(partitions.opened()) <= 3)

            assert documents[-1] in [partition.id for partition in partitions.opened()]
            await eventually(lambda: len(list(tmp_path.glob("*.db-wal"))) <= 3)
        finally:
            await partitions.close()
