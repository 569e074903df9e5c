"""``rkllm completion``: what makes a shell complete the command line, written from the option table itself.

eval "$(rkllm completion bash)"        # in ~/.bashrc
eval "$(rkllm completion zsh)"         # in ~/.zshrc, behind compinit
"""

from __future__ import annotations

from argparse import Action, ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from dataclasses import dataclass

from rkllm_twisted.cli.arguments import FILES, parser
from rkllm_twisted.methods.answers import ANSWERS

METHODS = sorted(name for name in ANSWERS if not name.startswith("$"))
"""What ``rkllm call`` can call; ``$/cancelRequest`` is of use within a connection only."""


@dataclass(frozen=True)
class Command:
    """A command of ``rkllm``.

    Attributes:
        name: Its name.
        help: One line.
        arguments: What it takes, in order.
    """

    name: str
    help: str
    arguments: list[Action]

    @property
    def options(self) -> list[Action]:
        """The arguments that begin with a dash."""
        return [action for action in self.arguments if action.option_strings]

    @property
    def positional(self) -> list[Action]:
        """The others, in order."""
        return [action for action in self.arguments if not action.option_strings]


def script(shell: str) -> str:
    """The text that a shell evaluates.

    Args:
        shell: ``bash`` or ``zsh``.
    """
    everywhere, commands = describe(parser())
    lines = _bash(everywhere, commands) if shell == "bash" else _zsh(everywhere, commands)
    return "\n".join(lines)


def describe(root: ArgumentParser) -> tuple[list[Action], list[Command]]:
    """What a parser takes: the options that stand before the command, and the commands."""
    [commands] = [action for action in root._actions if isinstance(action, _SubParsersAction)]
    everywhere = [action for action in root._actions if action is not commands]
    return everywhere, [
        Command(choice.dest, str(choice.help), commands.choices[choice.dest]._actions)
        for choice in commands._choices_actions
    ]


def words(action: Action) -> list[str]:
    """What may stand for an argument, where that is known."""
    if action.metavar == "METHOD":
        return METHODS
    return [str(choice) for choice in action.choices or ()]


def _bash(everywhere: list[Action], commands: list[Command]) -> Iterator[str]:
    options = [action for actions in (everywhere, *(each.options for each in commands)) for action in actions]
    taking = _taking(options)
    files = sorted(name for name, action in taking.items() if action.metavar in FILES)
    yield "_rkllm() {"
    yield "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}"
    yield "    local command= before= word words="
    yield '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do'
    yield f"        case $before in {'|'.join(sorted(taking))}) before=; continue ;; esac"
    yield "        before=$word"
    yield f"        case $word in {'|'.join(each.name for each in commands)}) command=$word; break ;; esac"
    yield "    done"
    yield "    case $previous in"
    yield f'        {"|".join(files)}) COMPREPLY=($(compgen -f -- "$current")); return ;;'
    yield f"        {'|'.join(sorted(taking.keys() - set(files)))}) COMPREPLY=(); return ;;"
    yield "    esac"
    yield "    case $command in"
    yield f"        '') words='{' '.join([*_names(everywhere), *(each.name for each in commands)])}' ;;"
    for each in commands:
        known = [word for action in each.positional for word in words(action)]
        yield f"        {each.name}) words='{' '.join([*_names(each.options), *known])}' ;;"
    yield "    esac"
    yield '    COMPREPLY=($(compgen -W "$words" -- "$current"))'
    yield "}"
    # Where there is no word of ours, bash completes the name of a file.
    yield "complete -o bashdefault -o default -F _rkllm rkllm"


def _taking(options: list[Action]) -> dict[str, Action]:
    """The options that take a value, by each of their names."""
    return {name: action for action in options if action.nargs is None for name in action.option_strings}


def _names(options: list[Action]) -> list[str]:
    """The long names, as nobody needs a completion of the short ones."""
    return [name for action in options for name in action.option_strings if name.startswith("--")]


def _zsh(everywhere: list[Action], commands: list[Command]) -> Iterator[str]:
    named = " ".join(_quoted(f"{each.name}:{each.help}") for each in commands)
    yield "#compdef rkllm"
    yield "_rkllm() {"
    yield "    local -a commands"
    yield f"    commands=({named})"
    yield "    local at state"
    yield "    for (( at = 2; at < CURRENT; at++ )); do"
    yield f"        case $words[at] in {'|'.join(sorted(_taking(everywhere)))}) (( at++ )) ;; -*) ;; *) break ;; esac"
    yield "    done"
    yield "    if (( at >= CURRENT )); then"
    yield f"        _arguments {' '.join(map(_zshOption, everywhere))} '1: :->command' && return"
    yield "        [[ $state != command ]] || _describe command commands"
    yield "        return"
    yield "    fi"
    yield '    words=("${(@)words[at,-1]}")'
    yield "    (( CURRENT -= at - 1 ))"
    yield "    case $words[1] in"
    for each in commands:
        # A positional argument of which nothing is known would keep zsh from completing an option in its place.
        known = [action for action in each.positional if words(action) or action.metavar in FILES]
        arguments = [*map(_zshOption, each.options), *map(_zshPositional, known)]
        yield f"        {each.name}) _arguments {' '.join(arguments)} ;;"
    yield "    esac"
    yield "}"
    yield "compdef _rkllm rkllm"


def _zshOption(action: Action) -> str:
    """A specification of ``_arguments``; what it explains ends at a bracket."""
    shown = (action.help or "").partition(" (default")[0].replace("[", "(").replace("]", ")")
    value = "" if action.nargs == 0 else _zshValue(action)
    return _quoted(f"{_names([action])[0]}[{shown}]{value}")


def _zshPositional(action: Action) -> str:
    return _quoted(f":{_zshValue(action)}")


def _zshValue(action: Action) -> str:
    name = str(action.metavar or action.dest)
    if known := words(action):
        return f":{name}:({' '.join(known)})"
    return f":{name}:{'_files' if name in FILES else ''}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
