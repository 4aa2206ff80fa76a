"""The `kvcalc` command in typer, made from `cli.spec`; a subcommand is built only when it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from kvcalc.cli.given import Given
from kvcalc.cli.spec import COMMANDS, Opt, Spec, module_of
from kvcalc.errors import UsageError, did_you_mean, short
from kvcalc.version import __version__


def run_command(name: str, values: dict[str, Any]) -> int:
    """Call the command's module with what was typed."""
    module = import_module(module_of(name))
    return int(module.run(Given(values)))


def _option(option: Opt) -> inspect.Parameter:
    kind: Any = list[str] | None if option.many else bool if option.switch else str | None
    metavar = None if option.switch else option.metavar
    declared = typer.Option(*option.flags, metavar=metavar, help=option.help, show_default=False)
    default = False if option.switch else None
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, declared]
    )


def _parameters(spec: Spec) -> list[inspect.Parameter]:
    options = [_option(option) for option in spec.options]
    if spec.argument is None:
        return options
    kind: Any = list[str] if spec.argument.many else str
    declared = typer.Argument(metavar=spec.argument.metavar, show_default=False)
    default: Any = inspect.Parameter.empty
    if not spec.argument.required:
        kind, default = kind | None, None
    argument = inspect.Parameter(
        spec.argument.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, declared]
    )
    return [argument, *options]


def build_command(name: str, called: Callable[[str, dict[str, Any]], int] = run_command) -> Any:
    """The click command of one entry of COMMANDS."""
    spec = COMMANDS[name]
    parameters = _parameters(spec)

    def function(**values: Any) -> int:
        return called(name, values)

    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    settings = {"help_option_names": ["-h", "--help"]}
    # \b: click leaves the paragraph as it is, so that an example can be copied.
    text = spec.text.replace("\n\nExample: ", "\n\n\b\nExample: ")
    single.command(name, help=text, short_help=spec.summary, context_settings=settings)(function)
    built = typer.main.get_command(single)
    built.name = name
    return built


class LazyGroup(TyperGroup):
    """Looks commands up in COMMANDS and builds the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in COMMANDS:
            return build_command(cmd_name)
        raise UsageError(
            f"unknown command {short(cmd_name)}",
            fix=did_you_mean(cmd_name, list(COMMANDS)) or f"one of: {', '.join(COMMANDS)}",
            field="command",
            value=cmd_name,
        )

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, spec.summary) for name, spec in COMMANDS.items()])


app = typer.Typer(
    cls=LazyGroup,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def main(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", show_default=False)] = False,
) -> int:
    """How much KV cache a model takes, how long a context and how many sessions fit: exact, per serving engine.

    TARGET is a shipped model (kvcalc models), a model YAML, a Hugging Face config.json or its folder.
    """
    if version:
        typer.echo(f"kvcalc {__version__}")
        ctx.exit()  # a command beside it is not run
    elif ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
    return 0
