from __future__ import annotations

from kvcalc.cli.given import Given


def run(given: Given) -> int:
    from kvcalc.answers.offload import CHUNK_TOKENS, Offload, Tier, offload
    from kvcalc.planning.links import parse_rate
    from kvcalc.units import parse_bytes

    values = given.values

    def rate(name: str) -> int | None:
        return None if values.get(name) is None else parse_rate(values[name], field=name.replace("_", "-"))

    tiers = []
    for name, link in (("host", "link"), ("disk", "disk_link")):
        if values.get(name) is not None:
            tiers.append(Tier(name, parse_bytes(values[name], field=name), rate(link)))
    chunk = given.whole("chunk", most=2**20, least=0)
    question = Offload(tuple(tiers), CHUNK_TOKENS if chunk is None else chunk, values.get("tier_dtype"), rate("link"))
    ask, registry = given.ask(), given.registry()
    given.emit(offload(given.target(registry), ask, question, given.card(ask, registry)))
    return 0
