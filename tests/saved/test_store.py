"""The store keeps what it is given, whoever else writes and whatever breaks.

Everything is tried on SQLite and on a real PostgreSQL server. `SPECDEC_STRESS=1` runs the
concurrency tests at full size (4 processes × 250 runs, 20 kills).
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import random
import signal
import threading
import time
import zlib
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa
from hypothesis import given, settings

from specdec.errors import SettingsError, StoreError
from specdec.metrics import Baseline, Block
from specdec.records import FinishReason
from specdec.saved.database import default_location
from specdec.saved.migrations import MIGRATIONS, migrate
from specdec.saved.postgres import while_waiting
from specdec.saved.rows import MAX_RHYTHM, RUNS, TRACES, RunFilter
from specdec.saved.store import RunStore
from specdec.saved.trace import dump_trace, write_trace
from tests.made_runs import runs, tiny_run
from tests.saved import postgres, store_writer

DAMAGE = {
    "tags": "no JSON",
    "title": b"7",
    "note": b"bytes",
    "prompt": b"1.5",
    "target": b"\xff",
    "draft": b"3",
    "num_draft_tokens": "three",
    "temperature": "warm",
    "num_tokens": 1.5,
    "tokens_per_s": float("inf"),
    "speedup": b"",
    "wall_s": "long",
}
FULL_SIZE = os.environ.get("SPECDEC_STRESS") == "1"
RUNS_PER_PROCESS, NUM_KILLS = (250, 20) if FULL_SIZE else (15, 3)


@pytest.fixture(scope="session")
def server():
    """A real PostgreSQL server, where one is installed."""
    if importlib.util.find_spec("psycopg") is None or postgres.programs() is None:
        pytest.skip(postgres.WHY_NOT)
    with postgres.serving() as one:
        yield one


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def new_location(request):
    """Return what makes a place where a new store can be opened, on each kind of database."""
    if request.param == "sqlite":
        return lambda folder: str(folder / "runs.db")
    url = request.getfixturevalue("server").url

    def emptied(folder):
        postgres.empty(url)
        return url

    return emptied


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("tokenizer"), num_tokens=8)


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("tokenizer"), num_tokens=60)


@pytest.fixture(scope="class")
def shared_store(new_location, tmp_path_factory):
    with closing(RunStore(new_location(tmp_path_factory.mktemp("store")))) as store:
        yield store


@pytest.fixture
def location(new_location, tmp_path):
    return new_location(tmp_path)


@pytest.fixture
def store(location):
    with closing(RunStore(location)) as opened:
        yield opened


@pytest.fixture
def file(tmp_path):
    """Where a store in a file of SQLite can be opened."""
    return str(tmp_path / "runs.db")


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.saved.store_writer"])
    return context


class TestKeeping:
    @settings(max_examples=40)
    @given(any_run=runs())
    def test_every_run_comes_back_bit_for_bit(self, shared_store, any_run):
        back = shared_store.load(shared_store.save(any_run))
        assert back == any_run
        assert dump_trace(back) == dump_trace(any_run)

    def test_runs_outlive_the_store(self, store, location, run):
        run_id = store.save(run)
        store.close()
        with closing(RunStore(location)) as again:
            assert again.load(run_id) == run

    def test_stopped_and_failed_runs_are_kept_too(self, store, run):
        for finish in (FinishReason.STOPPED, FinishReason.ERROR):
            summary = replace(run.summary, finish_reason=finish)
            store.save(replace(run, summary=summary))
        assert {row.finish_reason for row in store.list_runs()} == {"stopped", "error"}

    def test_answers_to_a_prompt_are_found_the_latest_first(self, store, run, long_run):
        answer, longer = list(run.token_ids), list(long_run.token_ids)
        asked = run.prompt, run.prompt_ids
        assert store.answers(*asked) == []
        first = store.save(run)
        store.save(replace(long_run, prompt=run.prompt))
        store.save(replace(run, prompt="Another one"))
        store.save(replace(run, prompt_ids=(5, 6)))  # of another chat template
        assert store.answers(*asked) == [longer, answer]
        assert store.answers(*asked, limit=2) == [longer]  # the latest two are looked at
        store.delete([first])
        assert store.answers(*asked) == [longer]

    def test_a_damaged_run_is_no_answer(self, store, run):
        store.save(run)
        damaged = store.save(run)
        with store.database.writing() as connection:
            where = TRACES.c.run_id == damaged
            connection.execute(TRACES.update().where(where).values(body=b"7"))
        assert store.answers(run.prompt, run.prompt_ids) == [list(run.token_ids)]

    def test_what_the_user_says_can_be_changed(self, store, run):
        run_id = store.save(run)
        store.edit(run_id, title="Best yet", note="at night", tags=["k sweep", "a"])
        store.edit(run_id, note="at dawn")
        changed = store.load(run_id)
        assert changed == replace(run, title="Best yet", note="at dawn", tags=("k sweep", "a"))
        (row,) = store.list_runs()
        assert (row.title, row.note, row.tags) == ("Best yet", "at dawn", ("k sweep", "a"))

    def test_words_that_cannot_be_stored_change_nothing(self, store, run):
        run_id = store.save(run)
        with pytest.raises(SettingsError):
            store.edit(run_id, title="x", note="a\0b")
        assert store.load(run_id) == run


class TestDeleting:
    def test_a_deleted_run_is_gone_and_can_be_brought_back(self, store, run):
        first, second = store.save(run), store.save(run)
        store.delete([first])
        assert [row.id for row in store.list_runs()] == [second]
        for action in (store.load, lambda gone: store.edit(gone, note="x")):
            with pytest.raises(StoreError, match="deleted meanwhile"):
                action(first)
        store.restore([first])
        assert store.load(first) == run

    def test_a_deletion_becomes_final_when_its_time_is_over(self, store, run, monkeypatch):
        first, second = store.save(run), store.save(run)
        store.delete([first])
        monkeypatch.setattr("specdec.saved.store.UNDO_TIME", timedelta(seconds=-1))
        store.delete([second])
        store.restore([first, second])
        assert [row.id for row in store.list_runs()] == [second]
        assert store.save(run) > second

    def test_deleting_what_is_not_there_does_nothing(self, store):
        store.delete([17])
        store.delete([])
        assert store.count() == 0


class TestLists:
    @pytest.fixture
    def filled(self, store, run):
        for number, (title, draft, tags) in enumerate(
            [("One 100%", "ngram", ()), ("two", "tiny", ("sweep",)), ("", "tiny", ("sweep", 'a"_'))]
        ):
            config = replace(run.config, seed=number)
            draft_info = replace(run.draft, name=draft)
            started_at = f"2026-01-0{number + 1}T00:00:00+00:00"
            store.save(
                replace(
                    run,
                    config=config,
                    title=title,
                    draft=draft_info,
                    tags=tags,
                    started_at=started_at,
                )
            )
        return store

    @pytest.mark.parametrize(
        ("where", "seeds"),
        [
            (RunFilter(), [2, 1, 0]),
            (RunFilter(search="ONE"), [0]),
            (RunFilter(search="0%"), [0]),
            (RunFilter(search="_"), []),
            (RunFilter(search="<b>TIN</b>"), [2, 1, 0]),
            (RunFilter(drafts=["tiny"]), [2, 1]),
            (RunFilter(targets=["hashed"], drafts=["none"]), []),
            (RunFilter(tags=["sweep"]), [2, 1]),
            (RunFilter(tags=["Sweep", 'a"_']), [2]),
            (RunFilter(tags=["swee"]), []),
            (RunFilter(since="2026-01-02"), [2, 1]),
            (RunFilter(until="2026-01-03"), [1, 0]),
        ],
    )
    def test_a_filter_keeps_what_fits(self, filled, where, seeds):
        assert [row.seed for row in filled.list_runs(where)] == seeds
        assert filled.count(where) == len(seeds)

    def test_repetitions_share_a_group(self, filled):
        keys = [row.group_key for row in filled.list_runs(order_by="seed", descending=False)]
        assert keys[0] != keys[1] == keys[2]
        assert filled.count(RunFilter(group_key=keys[1])) == 2

    def test_choices_are_what_occurs(self, filled):
        choices = filled.choices()
        assert choices.drafts == ("ngram", "tiny")
        assert choices.targets == ("hashed",)
        assert choices.tags == ('a"_', "sweep")

    def test_pages_follow_each_other(self, filled):
        pages = [filled.list_runs(limit=2, offset=offset) for offset in (0, 2, 4)]
        assert [[row.seed for row in page] for page in pages] == [[2, 1], [0], []]

    def test_a_line_says_how_sure_the_speed_up_is_and_how_the_run_went(self, filled, long_run):
        block = Block((0.01, 0.02, 0.03) * 4, (0.0,) * 12)
        found = filled.save(replace(long_run, baseline=Baseline.of_blocks(block, block)))
        (line,) = (row for row in filled.list_runs() if row.id == found)
        assert line.speedup_low <= line.speedup <= line.speedup_high
        rhythm = json.loads(line.rhythm)
        calls = [len(r.emitted) for r in long_run.rounds]
        assert len(rhythm) == min(MAX_RHYTHM, len(calls))
        assert min(calls) <= min(rhythm) <= max(rhythm) <= max(calls)

    @pytest.mark.parametrize("descending", [True, False])
    def test_what_is_not_known_comes_last(self, filled, long_run, descending):
        filled.save(replace(long_run, baseline=Baseline(4, 0.5, 0.0)))
        speedups = [
            row.speedup for row in filled.list_runs(order_by="speedup", descending=descending)
        ]
        assert speedups[0] is not None
        assert speedups[1:] == [None] * 3

    def test_a_list_shows_only_the_beginning_of_a_prompt(self, store, run):
        store.save(replace(run, prompt="a\0" + "b" * 10_000))
        (row,) = store.list_runs()
        assert len(row.prompt) == 200
        assert store.count(RunFilter(search="b" * 5000)) == 1


class TestManyWriters:
    @pytest.fixture
    def trace(self, run, tmp_path):
        write_trace(run, tmp_path / "run.jsonl")
        return tmp_path / "run.jsonl"

    def test_no_run_is_lost_when_four_processes_save_at_once(self, processes, location, trace):
        arguments = (location, trace, RUNS_PER_PROCESS)
        started = [
            processes.Process(target=store_writer.save_many, args=arguments) for _ in range(4)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join()
        assert [process.exitcode for process in started] == [0] * 4
        with closing(RunStore(location)) as store:
            rows = store.list_runs()
            assert len({row.id for row in rows}) == 4 * RUNS_PER_PROCESS
            store.load(rows[0].id)

    def test_no_run_is_lost_when_threads_share_a_store(self, store, run):
        threads = [
            threading.Thread(target=lambda: [store.save(run) for _ in range(5)]) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.count() == 30

    def test_a_killed_writer_loses_at_most_the_run_it_was_writing(self, processes, location, trace):
        finished: list[int] = []
        for _ in range(NUM_KILLS):
            finished += self._save_and_kill(processes, location, trace)
            with closing(RunStore(location)) as store:
                kept = {row.id for row in store.list_runs()}
                assert set(finished) <= kept
                assert len(kept) <= len(finished) + NUM_KILLS
        with closing(RunStore(location)) as store:
            for run_id in kept:
                store.load(run_id)

    def _save_and_kill(self, processes, location, trace):
        """Return the numbers that a writer reported before it was killed."""
        ours, theirs = processes.Pipe(duplex=False)
        with ours:
            process = processes.Process(
                target=store_writer.save_until_killed, args=(location, trace, theirs)
            )
            process.start()
            theirs.close()
            finished = [ours.recv()]
            time.sleep(random.uniform(0.0, 0.1))
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            with suppress(EOFError):
                while True:
                    finished.append(ours.recv())
            return finished


class TestTrouble:
    def test_a_full_disk_is_an_error_and_loses_nothing(self, processes, file, run, tmp_path):
        write_trace(run, tmp_path / "run.jsonl")
        report = tmp_path / "report"
        process = processes.Process(
            target=store_writer.save_onto_a_full_disk,
            args=(file, tmp_path / "run.jsonl", 200_000, report),
        )
        process.start()
        process.join()
        num_saved, message, num_listed = report.read_text().splitlines()
        assert "cannot be written" in message
        assert "SPECDEC_DB" in message
        assert num_saved == num_listed
        with closing(RunStore(file)) as store:
            rows = store.list_runs()
            assert len(rows) == int(num_saved) > 0
            assert store.load(rows[-1].id) == run
            store.save(run)

    def test_a_read_only_store_can_be_looked_at(self, file, run):
        with closing(RunStore(file)) as store:
            run_id = store.save(run)
        with closing(RunStore(f"sqlite:///file:{file}?mode=ro&uri=true")) as looking:
            assert looking.load(run_id) == run
            with pytest.raises(StoreError, match="cannot be written: attempt to write a readonly"):
                looking.save(run)

    def test_what_is_no_database_is_refused(self, tmp_path):
        (tmp_path / "notes.txt").write_text("not a database, " * 100)
        with pytest.raises(StoreError, match="cannot be opened: file is not a database"):
            RunStore(tmp_path / "notes.txt")

    def test_a_place_that_cannot_be_made_is_refused(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(StoreError, match="cannot be opened"):
            RunStore(tmp_path / "file" / "runs.db")

    @pytest.mark.parametrize(
        ("url", "sentence"),
        [
            ("nosuch://me:secret@host/db", "cannot be opened"),
            ("mysql://me:secret@host/db", "cannot be opened"),
            ("postgres://me:secret@127.0.0.1:1/db", "cannot be opened"),
            ("postgresql://127.0.0.1:1/db?password=secret", "cannot be opened"),
            ("postgresql://127.0.0.1:1/db?sslpassword=secret", "cannot be opened"),
            ("postgresql://me:p@secret@host/db", "write it as"),
            ("postgresql://me:secret@host:port/db", "write it as"),
            ("postgresql://me:secret@host:99999999/db", "cannot be opened"),
            ("postgresql://me:secret@[::1/db", "write it as"),
            ("://me:secret@host", "write it as"),
        ],
    )
    def test_an_address_that_leads_nowhere_is_refused_without_its_password(self, url, sentence):
        with pytest.raises(StoreError, match=sentence) as refused:
            RunStore(url)
        assert "secret" not in str(refused.value)
        assert "\n" not in str(refused.value)

    @pytest.mark.parametrize("column", DAMAGE)
    def test_a_bad_row_is_left_out_and_does_not_spoil_the_others(self, file, run, column):
        with closing(RunStore(file)) as store:  # PostgreSQL refuses most of these by itself
            good, bad = store.save(run), store.save(run)
            with store._database.writing() as connection:
                connection.execute(
                    sa.text(f"UPDATE specdec_runs SET {column} = :value WHERE id = {bad}"),
                    {"value": DAMAGE[column]},
                )
            damaged = []
            lines = store.list_runs(on_damaged=damaged.extend)
            assert [line.id for line in lines] == [good]
            assert damaged == [bad]
            choices = store.choices()
            assert choices.targets == ("hashed",)
            store.delete(damaged)
            assert store.count() == 1

    @pytest.mark.parametrize("body", ["a text", 10**12, 1.5])
    def test_a_body_that_is_no_bytes_is_damage(self, file, run, body):
        with closing(RunStore(file)) as store:
            run_id = store.save(run)
            with store._database.writing() as connection:
                connection.execute(
                    sa.text("UPDATE specdec_traces SET body = :body"), {"body": body}
                )
            with pytest.raises(StoreError, match="damaged"):
                store.load(run_id)

    @pytest.mark.parametrize("junk", [b"junk", b"", zlib.compress(b"0" * 5000)])
    def test_a_damaged_run_does_not_spoil_the_others(self, store, run, monkeypatch, junk):
        monkeypatch.setattr("specdec.saved.store.MAX_STORED_BYTES", 4000)
        damaged = store.save(run)
        with store._database.writing() as connection:
            connection.execute(TRACES.update().where(TRACES.c.run_id == damaged).values(body=junk))
        with pytest.raises(StoreError, match="damaged"):
            store.load(damaged)
        assert [row.id for row in store.list_runs()] == [damaged]


class TestPostgresTrouble:
    @pytest.fixture
    def store(self, server, monkeypatch):
        monkeypatch.setattr("specdec.saved.postgres.ANSWER_TIMEOUT_S", 1.0)
        monkeypatch.setattr("specdec.saved.postgres.CONNECT_TIMEOUT_S", 2)
        postgres.empty(server.url)
        with closing(RunStore(server.url)) as opened:
            yield opened

    def test_a_frozen_server_holds_nobody(self, server, store, run):
        run_id = store.save(run)
        for action in (store.count, lambda: store.save(run), lambda: store.load(run_id)):
            with server.frozen():
                began_s = time.monotonic()
                with pytest.raises(StoreError, match=r"not answered|timeout") as refused:
                    action()
                assert time.monotonic() - began_s < 5
                assert "specdec@127.0.0.1" in str(refused.value)
        with server.frozen(), pytest.raises(StoreError, match="cannot be opened"):
            RunStore(server.url)
        assert store.load(run_id) == run

    def test_who_waits_can_leave(self, server, store):
        class Left(BaseException):
            pass

        def leave(waited_s):
            raise Left

        store.count()
        with server.frozen(), pytest.raises(Left), while_waiting(leave):
            store.count()
        assert store.count() == 0

    def test_a_server_killed_three_times_loses_nothing_it_acknowledged(self, server, store, run):
        acknowledged: list[int] = []
        over = threading.Event()

        def save_on():
            while not over.is_set():
                with suppress(StoreError):
                    acknowledged.append(store.save(run))

        writers = [threading.Thread(target=save_on) for _ in range(4)]
        for writer in writers:
            writer.start()
        for _ in range(3):
            seen = len(acknowledged)
            while len(acknowledged) < seen + 5:
                time.sleep(0.01)
            server.stop()
            server.start()
        over.set()
        for writer in writers:
            writer.join()
        assert set(acknowledged) <= {row.id for row in store.list_runs()}
        assert store.load(acknowledged[-1]) == run


class TestMigrations:
    def test_a_new_database_is_brought_up_to_date_once(self, store, location, run):
        store.save(run)
        store.close()
        with closing(RunStore(location)) as again:
            with again._database.reading() as connection:
                numbers = connection.scalars(sa.text("SELECT number FROM specdec_migrations")).all()
            assert numbers == list(range(1, len(MIGRATIONS) + 1))
            assert again.count() == 1

    def test_an_older_database_keeps_its_runs(self, store, run):
        run_id = store.save(run)

        def m002_mood(connection):
            connection.execute(sa.text("ALTER TABLE specdec_runs ADD COLUMN mood TEXT"))

        database = store._database
        migrate(database._reader, database._writer, [*MIGRATIONS, m002_mood])
        with database.reading() as connection:
            assert connection.scalars(sa.text("SELECT mood FROM specdec_runs")).all() == [None]
            assert connection.scalars(sa.select(RUNS.c.id)).all() == [run_id]

    def test_a_step_that_fails_leaves_the_database_as_it_was(self, store, location, run):
        run_id = store.save(run)

        def m002_breaks(connection):
            connection.execute(sa.text("ALTER TABLE specdec_runs ADD COLUMN mood TEXT"))
            connection.execute(sa.text("SELECT nonsense FROM nowhere"))

        database = store._database
        with pytest.raises(sa.exc.DBAPIError):
            migrate(database._reader, database._writer, [*MIGRATIONS, m002_breaks])
        with closing(RunStore(location)) as again:
            assert again.load(run_id) == run
            with again._database.reading() as connection:
                columns = sa.inspect(connection).get_columns("specdec_runs")
            assert "mood" not in {column["name"] for column in columns}

    def test_a_newer_database_is_refused_clearly(self, store, location):
        with store._database.writing() as connection:
            connection.execute(sa.text("INSERT INTO specdec_migrations VALUES (99, 'm099_later')"))
        known = len(MIGRATIONS)
        with pytest.raises(StoreError, match=rf"schema {known + 1}.*only schema {known}: update"):
            RunStore(location)


class TestLocation:
    def test_the_environment_names_the_place(self, monkeypatch, tmp_path):
        monkeypatch.setenv("SPECDEC_DB", str(tmp_path / "mine.db"))
        with closing(RunStore()) as store:
            assert store.location == str(tmp_path / "mine.db")
        assert (tmp_path / "mine.db").is_file()

    def test_a_file_names_the_place_and_every_edit_of_it_counts(self, monkeypatch, tmp_path):
        monkeypatch.delenv("SPECDEC_DB")
        monkeypatch.chdir(tmp_path)
        for name in ("one.db", "other.db"):
            (tmp_path / ".env").write_text(f"SPECDEC_DB='{tmp_path / name}'\n")
            with closing(RunStore()) as store:
                assert store.location == str(tmp_path / name)
            assert (tmp_path / name).is_file()

    def test_the_default_is_the_users_data_folder(self, monkeypatch):
        monkeypatch.setenv("SPECDEC_DB", "")
        assert default_location().endswith("runs.db")
        assert "specdec" in default_location()
