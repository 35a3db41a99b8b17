"""Command-line conventions of `vllm serve`, so that its commands work here with one word changed."""

from __future__ import annotations

import click

__all__ = ["ServeCommand"]

LIST_OPTIONS = {"--served-model-name", "--api-key", "--allowed-media-domains", "--allowed-origins"}


class ServeCommand(click.Command):
    """A command that also takes `--served-model-name a b` (several values after one option) and
    underscores for dashes in option names."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Rewrite both habits into plain click options."""
        return super().parse_args(ctx, _spread(_dashes(args)))


def _dashes(args: list[str]) -> list[str]:
    """`--max_num_seqs=4` to `--max-num-seqs=4`; values keep their underscores."""
    plain = []
    for arg in args:
        name, sep, value = arg.partition("=")
        plain.append(name.replace("_", "-") + sep + value if arg.startswith("--") else arg)
    return plain


def _spread(args: list[str]) -> list[str]:
    """`--api-key a b` to `--api-key a --api-key b`: a list option takes all values up to the next one."""
    spread: list[str] = []
    option, num_values = "", 0
    for arg in args:
        if arg.startswith("-") and arg != "-":
            option, num_values = (arg, 0) if arg in LIST_OPTIONS else ("", 0)
        elif option:
            if num_values:
                spread.append(option)
            num_values += 1
        spread.append(arg)
    return spread
