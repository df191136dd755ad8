"""When workers are sampled and watched: the schedule, on a made-up clock."""

import itertools

import pytest

from hostd.core.values import Memory, WorkerId
from hostd.shell.memory.schedule import GROWTH_SHARE, IDLE_WATCH, LEAST_WATCH_S, Look, Schedule, Seen, Watched
from hostd.shell.memory.tree import Sample

MIB = 1 << 20
PERIOD_S, MAX_PERIOD_S, WATCH_PERIOD_S = 5.0, 60.0, 0.1


def a_worker(number=1, *, busy=False, watched=False, limit=None, loading=False):
    return Watched(WorkerId(number), 1000 + number, busy, watched or loading or limit is not None, limit, loading)


def memory_of(charge, *, shared=20 * MIB, **others):
    return Memory(1, charge + shared, charge, charge + shared // 2, charge + shared, 0, None)._replace(**others)


class Timetable:
    """A schedule, a clock, and what every worker holds."""

    def __init__(self):
        self.schedule = Schedule(PERIOD_S, MAX_PERIOD_S, WATCH_PERIOD_S)
        self.now = 100.0
        self.workers = [a_worker()]
        self.held = {}
        self.cpu_s = 0.001

    def looks(self):
        """Return what is looked at now."""
        return self.schedule.looks(self.workers, self.now)

    def take(self, look, memory=None, *, is_walked=True):
        self.schedule.taken(Seen(look, Sample(memory or memory_of(10 * MIB), is_walked), self.cpu_s), self.now)

    def go_on(self):
        next_s = self.schedule.next_s()
        assert next_s is not None
        assert next_s > self.now, "the schedule would turn on the spot"
        self.now = next_s

    def run(self, until_s):
        """Let time pass, and return when which worker was sampled, in seconds from 100."""
        sampled = []
        while self.now < 100.0 + until_s:
            for look in self.looks():
                held = self.held.get(look.worker.worker_id, memory_of(10 * MIB))
                if look.is_due or look.wants_sample(held.rss_bytes):
                    sampled.append((round(self.now - 100.0, 3), int(look.worker.worker_id)))
                    self.take(look, held)
            self.go_on()
        return sampled

    def times(self, until_s):
        return [time_s for time_s, _ in self.run(until_s)]

    def walks(self, passes, grown=0):
        """Return when a due worker was walked, of which each sample has so much more."""
        walks = []
        for step in range(passes):
            for look in self.looks():
                if look.is_due:
                    is_walked = look.believed is None
                    walks += [round(self.now - 100.0)] * is_walked
                    self.take(look, memory_of(10 * MIB + step * grown), is_walked=is_walked)
            self.go_on()
        return walks


@pytest.fixture
def table():
    return Timetable()


def gaps_of(times):
    return [round(b - a, 3) for a, b in itertools.pairwise(times)]


def test_without_workers_there_is_nothing_to_wait_for(table):
    assert table.schedule.looks([], 5.0) == []
    assert table.schedule.next_s() is None


def test_an_idle_worker_that_does_not_change_is_sampled_half_as_often_each_time_down_to_the_longest_period(table):
    assert table.times(300) == [5, 10, 20, 40, 80, 140, 200, 260], "the first sample is news, after it there is none"


def test_a_worker_that_is_used_again_is_due_within_a_period_and_then_every_period(table):
    table.run(100)
    table.workers = [a_worker(busy=True)]
    began_s = table.now - 100.0
    times = table.times(130)
    assert times[0] <= began_s + PERIOD_S
    assert set(gaps_of(times)) == {PERIOD_S}


@pytest.mark.parametrize(("held", "times"), [(50 * MIB, [140, 145, 155, 175]), (10 * MIB + 4096, [140, 200, 260, 320])])
def test_a_worker_that_has_changed_by_more_than_an_interpreter_does_is_looked_at_often_again(table, held, times):
    table.run(100)
    table.held[1] = memory_of(held)
    assert table.times(400)[:4] == times


def test_every_worker_has_its_own_time_and_the_gone_are_forgotten(table):
    table.run(3)
    table.workers = [a_worker(1), a_worker(2, busy=True)]
    sampled = table.run(21)
    assert [time_s for time_s, number in sampled if number == 1] == [5, 10, 20]
    assert len([number for _, number in sampled if number == 2]) == 3
    table.workers = [a_worker(2)]
    assert {number for _, number in table.run(60)} == {2}
    assert "1 workers" in repr(table.schedule)


def test_a_new_worker_that_loads_is_watched_at_once_and_sampled_when_it_has_grown(table):
    table.workers = [a_worker(watched=True)]
    table.held[1] = memory_of(0, shared=MIB // 2)
    assert table.run(1) == []
    table.held[1] = memory_of(2 * MIB)
    assert len(table.run(1.35)) == 1
    table.held[1] = memory_of(2 * MIB + MIB // 2)
    assert table.run(1.75) == [], "half a mebibyte is not worth a walk"
    table.held[1] = memory_of(4 * MIB)
    assert len(table.run(2.15)) == 1


def test_watching_goes_on_every_watch_period_whatever_else_is_due(table):
    table.workers, looks = [a_worker(watched=True), a_worker(2)], []
    for _ in range(100):
        for look in table.looks():
            if look.is_due:
                table.take(look)
            elif look.worker.worker_id == 1:
                looks.append(table.now)
        table.go_on()
    assert set(gaps_of(looks)) <= {WATCH_PERIOD_S, 2 * WATCH_PERIOD_S}


def test_growth_alone_may_take_a_share_of_a_core_and_no_more(table):
    table.workers, table.cpu_s, times = [a_worker(watched=True)], 0.1, []
    for step in range(100):
        table.held[1] = memory_of(step * 10 * MIB)
        times += table.times((step + 1) * WATCH_PERIOD_S)
    assert min(gaps_of(times)) >= table.cpu_s / GROWTH_SHARE - WATCH_PERIOD_S / 2
    assert len(times) >= 4


def a_look(last, limit, *, may_walk=False, loading=False):
    return Look(a_worker(watched=True, limit=limit, loading=loading), False, last, last, may_walk)


@pytest.mark.parametrize(
    ("charge", "limit", "grown", "how", "wants"),
    [
        (90, 100, 9, {}, False),
        (90, 100, 11, {}, True),
        (90, None, 10**6, {}, False),
        (50, 100, 0.01, {"shared": 500 * MIB}, False),
        (120, 100, 0, {}, False),
        (50, 100, 10, {"may_walk": True, "loading": True}, True),
        (50, 100, 10, {"may_walk": True}, False),
    ],
    ids=[
        *("within it", "over it", "none", "shared pages do not count", "known to be over it already"),
        *("its budget counts on it while it loads", "a walk at every look would be in the others' way"),
    ],
)
def test_a_limit_is_checked_although_growth_alone_would_have_to_wait(charge, limit, grown, how, wants):
    last = memory_of(charge * MIB, **{name: each for name, each in how.items() if name == "shared"})
    look = a_look(last, limit and limit * MIB, **{name: each for name, each in how.items() if name != "shared"})
    assert look.wants_sample(last.rss_bytes + int(grown * MIB)) is wants


def test_figures_of_before_others_came_or_loaded_are_believed_and_not_used_to_estimate():
    """What was a file's page of its own then may be shared now, which changes nothing of the worker itself."""
    schedule, now = Schedule(PERIOD_S, MAX_PERIOD_S, WATCH_PERIOD_S), 0.0
    first, other = a_worker(busy=True, limit=100 * MIB), a_worker(2)
    memory = memory_of(10 * MIB, anon_bytes=8 * MIB, file_bytes=22 * MIB)

    def look_at(*workers):
        nonlocal now
        now += 2 * PERIOD_S
        for look in schedule.looks(workers, now):
            is_walked = look.believed is None or look.believed.anon_bytes is None
            schedule.taken(Seen(look, Sample(memory, is_walked), 0.001, memory.rss_bytes), now + 0.001)
            if look.worker.worker_id == first.worker_id:
                seen = look
        return seen

    def estimates(*workers):
        return look_at(*workers).believed == memory

    assert look_at(first).believed is None
    assert estimates(first)
    assert look_at(first, other).believed == memory._replace(anon_bytes=None), "another has come"
    assert estimates(first, other)
    loading = other._replace(is_loading=True, is_watched=True)
    assert not estimates(first, loading), "it loads"
    assert not estimates(first, loading), "it still does"
    assert not estimates(first, other), "and may have mapped more just before its end"
    assert estimates(first, other)
    assert not estimates(first), "the other has gone"
    assert estimates(first._replace(is_loading=True))
    assert estimates(first), "what it maps itself is seen"


def test_a_look_between_samples_is_no_reason_to_believe_what_cannot_be_estimated_from():
    schedule, worker = Schedule(PERIOD_S, MAX_PERIOD_S, WATCH_PERIOD_S), a_worker(limit=100 * MIB)
    for anon_bytes, believes in ((8 * MIB, True), (None, False)):
        memory = memory_of(10 * MIB, anon_bytes=anon_bytes)
        for now in (1000.0, 1000.0 + PERIOD_S):
            for look in schedule.looks([worker], now):
                schedule.taken(Seen(look, Sample(memory, True), 0.001, memory.rss_bytes), now + 0.001)
        (look,) = schedule.looks([worker], now + PERIOD_S / 2)
        assert not look.is_due
        assert (look.believed is not None) is believes
        schedule = Schedule(PERIOD_S, MAX_PERIOD_S, WATCH_PERIOD_S)


@pytest.mark.parametrize(
    ("anon", "charge", "is_walked", "is_enough"),
    [(80, 90, False, True), (80, 110, False, False), (80, 110, True, True), (101, 110, False, True)],
)
def test_none_is_found_over_a_limit_by_what_others_may_share_by_now(anon, charge, is_walked, is_enough):
    sample = Sample(memory_of(charge * MIB, anon_bytes=anon * MIB), is_walked)
    assert a_look(None, 100 * MIB).is_beyond_doubt(sample) is is_enough
    assert a_look(None, None).is_beyond_doubt(sample)
    several = Sample(memory_of(110 * MIB)._replace(processes=2), True)
    assert not a_look(None, 100 * MIB).is_beyond_doubt(several), "several processes are looked at twice"
    assert a_look(None, 120 * MIB).is_beyond_doubt(several)


def test_an_idle_worker_is_walked_no_later_than_others(table):
    assert set(gaps_of(table.walks(60))) == {MAX_PERIOD_S}


@pytest.mark.parametrize("grown", [0, MIB])
def test_figures_are_believed_for_the_longest_period_and_then_read_anew(table, grown):
    """A write after a fork makes shared pages private ones and changes no resident memory."""
    table.workers = [a_worker(busy=True)]
    assert table.walks(40, grown)[:3] == [5, 65, 125]


def test_a_drop_of_shared_pages_makes_no_headroom_for_growth():
    """A child that ends takes its part of RSS along, and nothing of the charge."""
    schedule, worker, now = Schedule(1e6, 1e6, WATCH_PERIOD_S), a_worker(limit=100 * MIB, busy=True), 0.0
    last, wants = memory_of(80 * MIB, shared=120 * MIB), []
    for resident_mib in (200, 100, 110, 125):
        (look,) = schedule.looks([worker], now)
        wants.append(look.wants_sample(resident_mib * MIB))
        sample = Sample(last, True) if look.last is None else None
        schedule.taken(Seen(look, sample, 0.001, resident_mib * MIB), now)
        now += WATCH_PERIOD_S
    assert wants == [True, False, False, True]


class Watch:
    """A worker with a limit, and when its resident memory is looked at."""

    def __init__(self, **facts):
        self.schedule = Schedule(1e6, 1e6, WATCH_PERIOD_S)
        self.worker = a_worker(limit=100 * MIB, **facts)
        self.most_bytes, self.around_bytes = 30 * MIB, 10 * MIB
        self.now = 0.0

    def gaps(self, looks):
        """Let time pass for so many looks, and return what was between them."""
        times = []
        while len(times) <= looks:
            for look in self.schedule.looks([self.worker], self.now):
                times.append(self.now)
                sample = Sample(memory_of(10 * MIB), True) if look.last is None else None
                self.schedule.taken(Seen(look, sample, 0.001, self.most_bytes, self.around_bytes), self.now)
            next_s = self.schedule.next_s()
            assert next_s is not None
            assert next_s <= self.now + WATCH_PERIOD_S + 1e-9, "what is called meanwhile has to be seen"
            self.now = next_s
        return [round(gap / WATCH_PERIOD_S, 3) for gap in gaps_of(times)]


def test_a_worker_that_idles_within_its_limit_is_looked_at_less_and_less_often_until_it_is_called_or_grows():
    watch = Watch()
    assert watch.gaps(8) == [1, 2, 4, 8, IDLE_WATCH, IDLE_WATCH, IDLE_WATCH, IDLE_WATCH]
    watch.most_bytes += MIB
    watch.around_bytes += MIB
    assert watch.gaps(4) == [IDLE_WATCH] * 4, "others have shared more"
    watch.worker = watch.worker._replace(is_busy=True)
    assert watch.gaps(3) == [1, 1, 1]
    watch.worker = watch.worker._replace(is_busy=False)
    assert watch.gaps(8)[-1] == IDLE_WATCH
    watch.most_bytes += MIB
    assert watch.gaps(3) == [1, 2, 4]


@pytest.mark.parametrize("fact", ["busy", "loading"])
def test_a_worker_that_is_called_or_loads_is_looked_at_in_every_period(fact):
    assert set(Watch(**{fact: True}).gaps(20)) == {1}


def test_a_worker_that_grows_towards_its_limit_is_looked_at_the_sooner_the_nearer_it_is():
    schedule = Schedule(PERIOD_S, MAX_PERIOD_S, WATCH_PERIOD_S)
    worker, now, gaps = a_worker(limit=100 * MIB), 0.0, []
    first = memory_of(10 * MIB)
    for _ in range(40):
        held_bytes = min(10 + 100 * now, 99.9) * MIB  # 100 MiB in a second
        for look in schedule.looks([worker], now):
            sample = Sample(first, True) if look.last is None else None
            schedule.taken(Seen(look, sample, 0.001, int(held_bytes) + 20 * MIB), now)
        next_s = schedule.next_s()
        assert next_s is not None
        gaps.append(next_s - now)
        now = next_s
        if now > 0.9:
            break
    assert gaps[0] == pytest.approx(WATCH_PERIOD_S)
    assert min(gaps) == pytest.approx(LEAST_WATCH_S), "no sooner than that"
    assert gaps[-1] < gaps[0]
    assert all(gap <= WATCH_PERIOD_S + 1e-9 for gap in gaps)
