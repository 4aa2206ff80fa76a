"""The process: runs the command line, turns expected failures into two lines and an exit code."""

from __future__ import annotations

import os
import sys

from kvcalc.errors import EXIT_USAGE, Bug, KvcalcError, UsageError

_EXIT_INTERRUPTED = 130


def main(arguments: list[str]) -> int:
    """The exit code of one call; prints, never raises an expected error."""
    as_json = "--json" in arguments or any(
        word == "--format=json" or (word == "json" and before == "--format")
        for before, word in zip(["", *arguments], arguments, strict=False)
    )
    try:
        result = _call(arguments)
        if result == _EXIT_INTERRUPTED:  # the command parser caught Ctrl-C
            raise KeyboardInterrupt  # noqa: TRY301 - the one place that says so is below
    except KvcalcError as error:
        _report(error, as_json=as_json)
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return _EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`| head`): not our failure, and nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the one boundary: a traceback helps no user
        return _unexpected(error, arguments, as_json=as_json)
    return result if isinstance(result, int) else 0


def _call(arguments: list[str]) -> object:
    """Run the command: a plain call without importing typer, anything else through it."""
    if arguments[:1] == ["__complete"]:  # a shell asks at each Tab
        from kvcalc.cli.complete import run

        return run(arguments[1:])
    from kvcalc.cli.quick import parse

    plain = parse(arguments)
    if plain is None:
        from kvcalc.cli.app import app

        return app(arguments, prog_name="kvcalc", standalone_mode=False)
    from importlib import import_module

    from kvcalc.cli.given import Given
    from kvcalc.cli.spec import module_of

    command, values = plain
    return import_module(module_of(command)).run(Given(values))


def _unexpected(error: Exception, arguments: list[str], *, as_json: bool) -> int:
    """The command parser's own errors are usage; everything else is a bug in kvcalc."""
    if hasattr(error, "format_message"):
        from kvcalc.cli.spec import COMMANDS

        path = f"kvcalc {arguments[0]}" if arguments and arguments[0] in COMMANDS else "kvcalc"
        _report(UsageError(error.format_message(), fix=f"`{path} --help` lists the options"), as_json=as_json)
        return EXIT_USAGE
    if os.environ.get("KVCALC_DEBUG"):
        raise error
    bug = Bug(
        f"bug: {type(error).__name__}: {error}", fix="please report it with the command; KVCALC_DEBUG=1 shows where"
    )
    _report(bug, as_json=as_json)
    return bug.exit_code


def _report(error: KvcalcError, *, as_json: bool) -> None:
    """What, and how to fix it: two lines, or one JSON object."""
    if as_json:
        import json

        sys.stderr.write(json.dumps(error.as_dict(), default=str) + "\n")
        return
    sys.stderr.write(f"kvcalc: {error.sentence}\n")
    if error.fix:
        sys.stderr.write(f"  {error.fix}\n")


def run() -> None:
    """Entry point of the `kvcalc` script."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal without UTF-8 gets '?' for a bar, not a crash.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    code = main(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


if __name__ == "__main__":
    run()
