"""`banditroute explain`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from banditroute.cli.options import AsJson
from banditroute.cli.output import console, moment, percent, print_json, table, usd
from banditroute.cli.stored import stored
from banditroute.config import load
from banditroute.explain import Explanation, Judgement, assemble
from banditroute.tokens import TokenSigner
from banditroute.wiring import held_keys

NO_ROW = (
    "The decision sink has no row of it (switched off, expired, dropped, or not written yet), so this is what the id itself says."
)
WIDE = 110
SHOWN_ELSEWHERE = ("features", "input_tokens", "request_key")
USAGE_WORDS = {
    "input_tokens": "{:g} tokens in",
    "output_tokens": "{:g} out",
    "cached_input_tokens": "{:g} cached",
    "cost_usd": "${:.3g}",
    "latency_s": "{:.3g} s",
    "time_to_first_token_s": "first token after {:.3g} s",
}


def explain(
    decision_id: Annotated[str, typer.Argument(help="As route gave it.")],
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="The configuration whose store made the decision.")],
    as_json: AsJson = False,
) -> None:
    """Tell why a model was chosen, why not the others, and what feedback followed. Reads only."""
    held = load(config)
    with stored(held) as found:
        token = TokenSigner(held_keys(held.local), found.log.log_id).verify(decision_id)
        explanation = assemble(
            token,
            None if found.sink is None else found.sink.find(token.decision),
            found.log.record(token.decision),
            features=found.state.schemas.get(token.schema.hex()),
        )
    if as_json:
        print_json(explanation.to_json())
    else:
        _print(console(), explanation)


def _print(out: Console, told: Explanation) -> None:
    out.print(Text.assemble("decision ", (told.decision, "bold"), f" of {moment(told.time)}, category {told.category}"))
    out.print()
    out.print(told.why or f"{told.model} was drawn with probability {percent(told.propensity)}. {NO_ROW}", markup=False)
    known = f"Expected: quality {told.expected_quality:.3f}, cost {usd(told.expected_cost_usd)}"
    tokens = "" if told.input_tokens is None else f", {told.input_tokens} input tokens"
    out.print(f"{known}{tokens}; as known at position {told.state_position}.", markup=False)
    if told.context:
        out.print(f"Context: {', '.join(f'{name} = {value:g}' for name, value in told.context.items())}.", markup=False)
    asked = {name: value for name, value in told.request.items() if name not in SHOWN_ELSEWHERE}
    if asked:
        out.print(f"Asked for: {'; '.join(f'{name} {_listed(value)}' for name, value in asked.items())}.", markup=False)
    out.print()
    if told.options:
        wide = out.width >= WIDE
        out.print(
            table(
                "",
                ["model", ">quality", ">cost", ">utility", ">drawn", "why"],
                [
                    (
                        option.model,
                        f"{option.quality_mean:.3f} ± {option.quality_stddev:.3f}",
                        usd(option.expected_cost_usd),
                        f"{option.utility_mean:.3f}",
                        percent(option.propensity),
                        f"{option.verdict}: {option.comparison}" if wide and option.comparison else option.verdict,
                    )
                    for option in told.options
                ],
                gap=2 if wide else 1,
            )
        )
        out.print()
    if not told.signals and not told.attempts:
        out.print("No feedback so far.")
    else:
        out.print("[bold]feedback[/bold]")
    for signal in told.signals:
        by = f", says {signal.source}" if signal.source else ""
        weight = "" if signal.weight == 1.0 else f", weight {signal.weight:g}"
        out.print(f"  {moment(signal.observe_time)}  {signal.model}: {_said(signal)}{by}{weight}", markup=False)
    for call in told.attempts:
        what = ("shadow call " if call.shadow else "call ") + ("served" if call.error == "none" else f"failed: {call.error}")
        usage = ", ".join(USAGE_WORDS[field].format(value) for field, value in call.usage.items())
        out.print(f"  {moment(call.observe_time)}  {call.model}: {what}{f' ({usage})' if usage else ''}", markup=False)


def _listed(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={text}" for name, text in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _said(signal: Judgement) -> str:
    match signal.kind:
        case "accepted":
            return "accepted" if signal.value else "not accepted"
        case "retried":
            return "not retried" if signal.value else "retried"
        case "rating":
            return f"rated {100 * signal.value:.4g} % of the way to the best"
        case _:
            return f"evaluation score {signal.value:g}"
