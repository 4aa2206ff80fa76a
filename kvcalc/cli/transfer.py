from __future__ import annotations

from kvcalc.cli.given import Given


def run(given: Given) -> int:
    from kvcalc.answers.transfer import Transfer, transfer
    from kvcalc.planning.links import parse_rate

    link = given.values.get("link")
    question = Transfer(
        milli_rate=given.thousandths("rate"), link=None if link is None else parse_rate(link, field="link")
    )
    ask, registry = given.ask(), given.registry()
    given.emit(transfer(given.target(registry), ask, question, given.card(ask, registry)))
    return 0
