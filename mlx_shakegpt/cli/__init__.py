"""The commands: they parse, call the library and print. Nothing imports this package."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Any

import click

from .. import __version__
from ..settings.errors import NotReached
from . import (
    bench,
    completion,
    data,
    demo,
    export,
    generate,
    info,
    plot,
    publish,
    recite,
    train,
    verify,
    watch,
)
from .common import note
from .gpu import lost_gpu, no_backend
from .help import CommandList
from .wording import program, spoken


class Program(CommandList):
    """The program, whose output a reader such as `head` may have seen enough of."""

    def invoke(self, context: click.Context) -> Any:
        """Runs a command; where its output is not read to the end, that is no failure, as which
        click would count it."""
        try:
            result = super().invoke(context)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return result


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="shakegpt")
def app() -> None:
    """Makes GPT-2 learn a text by heart, on MLX."""
    if os.environ.get("NO_COLOR"):
        click.get_current_context().color = False  # and so that of every command


COMMANDS = (
    train, watch, generate, verify, recite, export, demo, publish, data, plot, info, bench,
    completion,
)  # fmt: skip
for module in COMMANDS:
    app.add_command(module.command)


def main() -> None:
    """Runs the program and exits: 0 done, 1 not reached, 2 bad input, 130 interrupted."""
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a locale cannot say must not end a command
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run())


def _open_standard_streams() -> None:
    """Where stdin, stdout or stderr is closed, the next file that is opened would take its number,
    which MLX cannot read from; so that they lead nowhere instead."""
    with suppress(OSError):
        while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(handle)


def run() -> int:
    """Runs the command of sys.argv; returns the exit code, with an error reported on one line."""
    if os.environ.get("SHAKEGPT_DEBUG"):
        return app(prog_name=program(), standalone_mode=False) or 0
    try:
        return app(prog_name=program(), standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else program()
        return _fail(f"{error.format_message().rstrip('.')}; see {path} --help")
    except click.ClickException as error:
        return _fail(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        note("Interrupted.")
        return 130
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}{_remedy(error)}")
    except ImportError as error:
        return _fail(no_backend(str(error)) or str(error))
    except ValueError as error:
        return _fail(str(error), 1 if isinstance(error, NotReached) else 2)
    except Exception as error:  # a mistake of ours must not look like one of the user's
        if isinstance(error, RuntimeError) and (advice := lost_gpu(str(error))):
            return _fail(advice, 1)
        return _fail(
            f"unexpected {type(error).__name__}: {error}; SHAKEGPT_DEBUG=1 shows where it happened"
        )


def _remedy(error: OSError) -> str:
    import errno

    return {
        errno.ENOSPC: "; free some space and run again",
        errno.EDQUOT: "; free some space and run again",
        errno.EFBIG: "; raise the file size limit (ulimit -f) and run again",
        errno.EACCES: "; change its permissions, or set SHAKEGPT_HOME to a folder of yours",
        errno.EROFS: "; set SHAKEGPT_HOME to a folder that can be written",
        errno.ENOENT: "; check the path",
        errno.EEXIST: "; name a folder, or move this file away",
        errno.ENOTDIR: "; a file stands where a folder is needed: check the path, or SHAKEGPT_HOME",
        errno.EISDIR: "; name a file in it",
    }.get(error.errno or 0, "")


def _fail(message: str, code: int = 2) -> int:
    note("Error: " + " ".join(spoken(message, app).split()))
    return code
