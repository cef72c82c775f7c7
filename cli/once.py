"""Options that hold one value are typed once: of two, one would be lost without a word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from attnbias.cli.errors import Part, TypedWrong


def each_once(command: Part) -> Part:
    """Return a command that refuses an option of one value, or a pair `--x/--no-x`, which is typed more than once.

    Options that gather values are typed as often as one likes, and a flag that only switches on says the same twice.
    """
    command.make_parser = _checked(command.make_parser)
    return command


def typed_again(name: str, times: int) -> str:
    """The words that refuse it."""
    return f"{name} is typed {times} times; keep one of them"


def _checked(make: Callable[[Part], Part]) -> Callable[[Part], Part]:
    def made(context: Part) -> Part:
        parser = make(context)
        parse = parser.parse_args

        def parsed(args: list[str]) -> Part:
            values, rest, order = parse(args=args)
            for parameter, times in Counter(order).items():
                if times > 1 and not _may_repeat(parameter):
                    name = "/".join([*parameter.opts[:1], *parameter.secondary_opts[:1]])
                    raise TypedWrong(typed_again(name, times), ctx=context)
            return values, rest, order

        parser.parse_args = parsed
        return parser

    return made


def _may_repeat(parameter: Part) -> bool:
    gathers = parameter.param_type_name != "option" or parameter.multiple or parameter.count
    return bool(gathers or (parameter.is_flag and not parameter.secondary_opts))
