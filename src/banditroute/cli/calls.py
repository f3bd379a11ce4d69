"""`banditroute route` and `banditroute feedback`: the RouterService by hand."""

from __future__ import annotations

from datetime import UTC
from typing import Annotated, Any

import typer

from banditroute.cli.options import ROUTER_ADDRESS, AsJson, RouterAddress, address, numbers, pairs
from banditroute.cli.output import console, message_data, percent, print_json, table, usd, word
from banditroute.client import Client
from banditroute.core.types import ErrorKind
from banditroute.v1 import router_pb2 as pb

ERROR_KINDS = ", ".join(kind.name.lower() for kind in ErrorKind)

Names = list[str] | None


def route(
    category: Annotated[str, typer.Argument(help="The task category.")],
    server: RouterAddress = ROUTER_ADDRESS,
    feature: Annotated[Names, typer.Option(metavar="NAME=VALUE", help="A context feature; repeatable.")] = None,
    input_tokens: Annotated[int | None, typer.Option(help="Tokens that will be sent.")] = None,
    output_tokens: Annotated[int | None, typer.Option(help="Tokens that the answer is expected to have.")] = None,
    allow: Annotated[Names, typer.Option(metavar="MODEL", help="Only these models may serve; repeatable.")] = None,
    exclude: Annotated[Names, typer.Option(metavar="MODEL", help="These models may not serve; repeatable.")] = None,
    tag: Annotated[Names, typer.Option(metavar="TAG", help="Only models with all these tags; repeatable.")] = None,
    max_cost_usd: Annotated[float | None, typer.Option(help="Only models expected to cost at most this, in USD.")] = None,
    request_key: Annotated[str, typer.Option(help="A retry with the same key is not a second draw.")] = "",
    label: Annotated[Names, typer.Option(metavar="NAME=TEXT", help="Kept with the decision for explain; repeatable.")] = None,
    min_state_position: Annotated[int, typer.Option(help="Answer from a state that has folded at least this.")] = 0,
    timeout_s: Annotated[float, typer.Option(help="The call's whole time, in seconds.")] = 5.0,
    explain: Annotated[bool, typer.Option("--explain", help="Show every model of the category.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask the server which model to use."""
    address(server, option="--server")
    features, labels = numbers(feature or (), option="--feature"), pairs(label or (), option="--label")
    with Client(server, channels=1, timeout_s=timeout_s) as client:
        response = client.route(
            category,
            features=features,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            allowed_models=allow or (),
            excluded_models=exclude or (),
            required_tags=tag or (),
            max_cost_usd=max_cost_usd,
            request_key=request_key,
            labels=labels,
            min_state_position=min_state_position,
            explain=explain,
        )
    if as_json:
        print_json(message_data(response))
        return
    out = console()
    reason = _word(response, "decision_reason")
    rows = [
        ("model", response.model),
        ("decision id", response.decision_id),
        ("drawn with probability", f"{percent(response.propensity)} ({reason.lower().replace('_', ' ')})"),
        ("expected quality", f"{response.expected_quality:.3f}"),
        ("expected cost", usd(response.expected_cost_usd)),
        ("fallbacks, best first", ", ".join(response.fallback_models) or "none"),
        ("feedback until", f"{response.expire_time.ToDatetime(UTC):%Y-%m-%d %H:%M:%S} UTC"),
        ("state position", response.state_position),
    ]
    for name, value in rows:
        out.print(f"[bold]{name:<24}[/bold]", end="")
        out.print(str(value), markup=False, soft_wrap=True)
    if explain:
        out.print()
        out.print(
            table(
                f"models of {category}",
                ["model", ">quality", ">expected cost", ">utility", ">probability", "may serve"],
                [
                    (
                        c.model,
                        f"{c.quality_mean:.3f} ± {c.quality_stddev:.3f}",
                        usd(c.expected_cost_usd),
                        f"{c.utility_mean:.3f}",
                        percent(c.propensity),
                        "yes" if c.eligible else f"no: {_word(c, 'exclusion_reason').lower().replace('_', ' ')}",
                    )
                    for c in response.candidates
                ],
            )
        )


def feedback(
    decision_id: Annotated[str, typer.Argument(help="As route gave it.")],
    server: RouterAddress = ROUTER_ADDRESS,
    eval_score: Annotated[float | None, typer.Option(help="0 (useless) to 1 (perfect).")] = None,
    rating: Annotated[float | None, typer.Option(help="A rating on the scale below.")] = None,
    rating_min: Annotated[float, typer.Option(help="The worst rating.")] = 1.0,
    rating_max: Annotated[float, typer.Option(help="The best rating.")] = 5.0,
    accepted: Annotated[bool | None, typer.Option("--accepted/--not-accepted", help="The answer was taken as it was.")] = None,
    retried: Annotated[bool | None, typer.Option("--retried/--not-retried", help="The user asked again.")] = None,
    error: Annotated[str | None, typer.Option(metavar="KIND", help=f"How the call failed: {ERROR_KINDS}.")] = None,
    cost_usd: Annotated[float | None, typer.Option(help="What the call cost, in USD.")] = None,
    input_tokens: Annotated[int | None, typer.Option(help="Tokens sent.")] = None,
    output_tokens: Annotated[int | None, typer.Option(help="Tokens of the answer.")] = None,
    cached_input_tokens: Annotated[int | None, typer.Option(help="Of the tokens sent, those read from a cache.")] = None,
    latency_s: Annotated[float | None, typer.Option(help="Seconds to the whole answer.")] = None,
    time_to_first_token_s: Annotated[float | None, typer.Option(help="Seconds to the answer's first token.")] = None,
    source: Annotated[str, typer.Option(help="Who or what judged.")] = "",
    model: Annotated[str, typer.Option(help="The model that this is about, if not the one drawn.")] = "",
    shadow: Annotated[bool, typer.Option("--shadow", help="The call was made beside the chosen model.")] = False,
    weight: Annotated[float | None, typer.Option(help="Scales what the signals count, above 0, at most 10.")] = None,
    timeout_s: Annotated[float, typer.Option(help="The call's whole time, in seconds.")] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Tell the server how a decision went; it is durable when this returns."""
    address(server, option="--server")
    if error is not None and error.upper() not in ErrorKind.__members__:
        raise typer.BadParameter(f"{error!r} is none of {ERROR_KINDS}", param_hint="--error")
    with Client(server, channels=1, timeout_s=timeout_s) as client:
        response = client.feedback(
            decision_id,
            eval_score=eval_score,
            rating=None if rating is None else (rating, rating_min, rating_max),
            accepted=accepted,
            retried=retried,
            error=error,
            cost_usd=cost_usd,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cached_input_tokens=cached_input_tokens,
            latency_s=latency_s,
            time_to_first_token_s=time_to_first_token_s,
            source=source,
            model=model,
            shadow=shadow,
            weight=weight,
        )
    if as_json:
        print_json(message_data(response))
        return
    out = console()
    out.print(f"{_word(response, 'disposition')}, durable at position {response.state_position}")
    kinds = pb.FeedbackResponse.DESCRIPTOR.fields_by_name["signal_dispositions"]
    for what, found in (("signals", response.signal_dispositions), ("attempts", response.attempt_dispositions)):
        if found:
            out.print(f"{what}: {', '.join(word(kinds, value) for value in found)}")


def _word(message: Any, field: str) -> str:
    return word(message.DESCRIPTOR.fields_by_name[field], getattr(message, field))
