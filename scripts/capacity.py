"""Measure what one server costs on this machine, and simulate 10, 100 and 1,000 of them.

The measurements are of real servers, or of the kernel (capacity_costs.py). The simulation (capacity_model.py) takes
them and a fixed seed: the same costs give the same tables. Everything is printed as Markdown tables.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import capacity_model as model
from capacity_costs import SMALL, Costs, Loads, Sizes, measure
from capacity_model import Look, Provider, Reload

PATIENT = 100_000  # retries, which never end
RATE = 50.0  # calls a second that the provider answers
SEEN_WITHIN_S = 1.0  # the poll interval
CACHED_S = 30.0  # for which a mount may keep attributes
UNBOUNDED = 1_000_000


def main() -> int:
    options = parse()
    model.check()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that all servers are stopped
    if options.costs:
        costs = Costs.read(options.costs)
    else:
        with tempfile.TemporaryDirectory(prefix="hayhooks-capacity-") as directory:
            costs = measure(Path(directory), SMALL if options.check else Sizes())
    if options.json:
        costs.write(options.json)
    nodes = (2, 10) if options.check else (10, 100, 1000)
    for lines in (
        one_server(costs),
        looks(costs),
        compared(costs),
        mount(costs, nodes),
        storm(costs, pipelines=20 if options.check else 1000, nodes=nodes[1]),
        herd(costs, nodes),
    ):
        print("\n".join(lines) + "\n")
    print(costs.where)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/capacity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="small numbers: that it works, in about a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measured costs to FILE")
    parser.add_argument("--costs", type=Path, metavar="FILE", help="measure nothing: simulate with the costs in FILE")
    return parser.parse_args()


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"| --- |{' --: |' * (len(head) - 1)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def seconds(value: float) -> str:
    return f"{number(value)} s"


# What was measured.


def one_server(costs: Costs) -> Iterator[str]:
    assert costs.small
    assert costs.haystack
    assert costs.changed
    rows = [("a server without pipelines", f"{number(costs.server_mb)} MB")]
    rows += [("a server whose one pipeline imports Haystack", f"{number(costs.haystack_mb)} MB")]
    rows += _loads("a small wrapper", costs.small)
    rows += _loads("a wrapper with a small Haystack pipeline", costs.haystack)
    changed = costs.changed
    rows += [
        (f"all of {changed.count:,} small wrappers change: until the last one serves", seconds(changed.all_s)),
        ("the same, processor time of each", f"{number(changed.cpu_ms)} ms"),
        ("the same, memory of the server then", f"{number(costs.changed_mb)} MB"),
        ("the same, when the trial of what was replaced is over", f"{number(costs.trial_over_mb)} MB"),
        ("the same, when all have changed once more", f"{number(costs.changed_again_mb)} MB"),
    ]
    rows += [
        (
            f"from a save to the first answer, {int(count):,} pipeline{'s' * (count != '1')} in all",
            f"{number(value)} ms",
        )
        for count, value in costs.saved_ms.items()
    ]
    rows += [(f"requests a second, `{row}`", number(value)) for row, value in costs.per_s.items()]
    rows += [("one more worker, with Haystack: memory of its own", f"{number(costs.worker_mb)} MB")]
    return table(("of one process", "measured"), rows)


def _loads(what: str, loads: Loads) -> list[tuple[str, str]]:
    return [
        (f"{what}: processor time of a load, until it serves", f"{number(loads.cpu_ms)} ms"),
        (f"{what}: a load as `/status` tells it, others at the same time", f"{number(loads.wall_ms)} ms"),
        (f"{what}: memory", f"{number(loads.kb)} KB"),
    ]


def looks(costs: Costs) -> Iterator[str]:
    head = ("pipelines", "a full look, processor time", "calls", "every", "an idle server, of a processor")
    return table(head, (_looks_row(costs, int(count)) for count in costs.looks))


def _looks_row(costs: Costs, count: int) -> Sequence[str]:
    look = costs.look(count)
    every = f"{number(model.interval(look, 1.0, events=True))} s"
    idle = f"{costs.idle_cpu_ms[str(count)] / 10:.1f} %"
    return f"{count:,}", f"{number(look.cpu_s * 1000)} ms", f"{look.calls:,}", every, idle


def compared(costs: Costs) -> Iterator[str]:
    assert costs.small
    cpu_s = costs.small.cpu_ms / 1000
    rows = []
    for each in costs.compared:
        reload = Reload(
            1, int(each["pipelines"]), cpu_s, each["wait_s"], int(each["loads_at_a_time"]), each["jitter_s"]
        )
        what = f"{reload.pipelines} pipelines that wait {reload.wait_s:g} s{_settings(reload)}: until all serve"
        rows.append((what, seconds(each["took_s"]), seconds(model.simulate(reload).took_s)))
    for each in costs.herds:
        provider = Provider(each["rate"])
        reload = Reload(1, int(each["pipelines"]), cpu_s, 0.0, int(each["loads_at_a_time"]), each["jitter_s"])
        outcome = model.simulate(replace(reload, provider=provider))
        what = (
            f"{reload.pipelines} pipelines that call, {provider.rate:g} calls a second are answered{_settings(reload)}"
        )
        rows.append((f"{what}: peak calls a second", f"{each['peak_calls']:.0f}", str(outcome.peak_calls)))
        rows.append((f"{what}: failed", f"{each['failed']:.0f}", str(outcome.failed)))
    return table(("one server", "measured", "simulated"), rows)


def _settings(reload: Reload) -> str:
    jitter = f", jitter {reload.jitter_s:g} s" if reload.jitter_s else ""
    return f", loads at a time {_at_a_time(reload.loads_at_a_time)}{jitter}"


def _at_a_time(loads: int) -> str:
    return {0: "`0`, the default", UNBOUNDED: "no bound"}.get(loads, f"`{loads}`")


# What was simulated.


def mount(costs: Costs, nodes: Sequence[int]) -> Iterator[str]:
    rows = []
    for count in list(costs.looks)[1:]:
        look = costs.look(int(count))
        cached = Look(look.cpu_s, look.paths, look.paths)
        ways = [
            ("events on, poll interval 1 s", look, model.interval(look, 1.0, events=True)),
            *((f"events off, poll interval {poll_s:g} s", look, poll_s) for poll_s in (1.0, 10.0, 60.0)),
            (f"attributes cached for {CACHED_S:g} s", cached, CACHED_S),
        ]
        for how, seen, every_s in ways:
            cells = [_per_second(watchers, seen, every_s) for watchers in nodes]
            rows.append((f"{int(count):,} pipelines, {how}", *cells))
    return table(("calls a second on one mount", *(f"{count:,} watchers" for count in nodes)), rows)


def _per_second(watchers: int, look: Look, every_s: float) -> str:
    mean, most = map(_rounded, model.calls_on_mount(watchers, look, every_s))
    return mean if most == mean else f"{mean} (peak {most})"


def _rounded(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}"


def storm(costs: Costs, *, pipelines: int, nodes: int) -> Iterator[str]:
    assert costs.changed
    assert costs.haystack
    kinds = [
        ("small", costs.changed.cpu_ms, 0.0),
        ("with Haystack", costs.haystack.cpu_ms, 0.0),
        ("waits 0.2 s", costs.changed.cpu_ms, 0.2),
        ("waits 2 s", costs.changed.cpu_ms, 2.0),
    ]
    rows = []
    for loads in (1, 4, 16, 0, UNBOUNDED):
        outcomes = [
            model.simulate(Reload(nodes, pipelines, cpu_ms / 1000, wait_s, loads, seen_within_s=SEEN_WITHIN_S))
            for _, cpu_ms, wait_s in kinds
        ]
        rows.append((_at_a_time(loads), *(seconds(each.took_s) for each in outcomes), f"{outcomes[-1].most_loads:,}"))
    head = ("`HAYHOOKS_LOADS_AT_A_TIME`", *(kind for kind, *_ in kinds), "loads of a node at a time, at most")
    return table(head, rows)


def herd(costs: Costs, nodes: Sequence[int]) -> Iterator[str]:
    assert costs.haystack
    cpu_s, provider = costs.haystack.cpu_ms / 1000, Provider(RATE)
    cases = [
        (Reload(count, 1, cpu_s, jitter_s=jitter_s), "") for count in nodes for jitter_s in (0.0, 10.0, 30.0, 60.0)
    ]
    cases += [
        (Reload(nodes[1], 10, cpu_s, loads_at_a_time=loads, jitter_s=jitter_s), _at_a_time(loads))
        for loads in (0, 1)
        for jitter_s in (0.0, 30.0)
    ]
    rows = []
    for reload, loads in cases:
        base = replace(reload, seen_within_s=SEEN_WITHIN_S)
        gives_up = model.simulate(replace(base, provider=provider))
        patient = model.simulate(replace(base, provider=replace(provider, retries=PATIENT)))
        what = f"{reload.nodes:,} nodes, {reload.pipelines} pipeline{'s' if reload.pipelines > 1 else ''} each"
        rows.append(
            (
                what + (f", loads at a time {loads}" if loads else ""),
                f"{reload.jitter_s:g} s",
                f"{gives_up.peak_calls:,}",
                f"{gives_up.failed:,} of {reload.nodes * reload.pipelines:,}",
                seconds(patient.took_s),
                f"{sum(patient.calls.values()):,}",
            )
        )
    head = (f"a provider that answers {RATE:g} calls a second", "jitter", "peak calls a second")
    return table((*head, "failed after 2 retries", "all serve, with endless retries", "calls for that"), rows)


if __name__ == "__main__":
    sys.exit(main())
