from pathlib import Path

from bench.models import MEDIUM, MODELS, TINY
from bench.plan import Plan
from bench.registry import SERVERS
from bench.workload import SCENARIOS


def make_plan(*, rounds: int = 1, curve: bool = True, servers: tuple[str, ...] = tuple(SERVERS)) -> Plan:
    return Plan(
        rounds=rounds,
        seconds=3,
        servers=servers,
        models=tuple(MODELS),
        scenarios=tuple(SCENARIOS),
        curve=curve,
        open_loop=True,
        limit=True,
        folder=Path("nowhere"),
    )


def test_a_server_without_a_binary_protocol_leaves_binary_out() -> None:
    names = [scenario.name for scenario in make_plan().cells(SERVERS["fastapi"], MEDIUM)]
    assert names == ["S1", "S2", "S3", "vowels", "spread"]


def test_only_ours_is_measured_in_open_loop() -> None:
    plan = make_plan()
    assert [server.name for server in plan.chosen_servers() if plan.has_open_loop(server)] == ["ours"]


def test_the_limit_is_measured_for_what_is_sent() -> None:
    assert make_plan().workloads(TINY) == ("single", "fixed")
    assert make_plan().workloads(MEDIUM) == ("single", "fixed", "vowels", "spread")


def test_the_estimate_has_a_step_for_each_server_and_limit_and_grows_with_the_rounds() -> None:
    once, twice = list(make_plan().steps()), list(make_plan(rounds=2).steps())
    assert len(once) == len(MODELS) * (len(SERVERS) + 1)
    assert sum(twice) == 2 * sum(once)
    assert sum(make_plan(curve=False).steps()) < sum(once)


def test_the_default_run_is_bounded() -> None:
    assert sum(make_plan(rounds=3).steps()) < 45 * 60
