"""A script that lets the shell complete commands, groups and keys: `uedpo completion bash|zsh`.

source <(uedpo completion bash)      in ~/.bashrc
source <(uedpo completion zsh)       in ~/.zshrc
"""

from __future__ import annotations

from collections.abc import Sequence

from uedpo.__main__ import COMMANDS
from uedpo.cli.catalogue import entries
from uedpo.config.choices import choices_of, group_names
from uedpo.config.command_line import answer
from uedpo.config.validate import GROUPS
from uedpo.errors import InputError

# what readline breaks words at ("=") is not part of what it replaces
BASH = """_uedpo() {
  local line="${COMP_LINE:0:$COMP_POINT}" word
  word="${line##* }"
  COMPREPLY=($(uedpo completion words "$line" 2>/dev/null))
  if [[ "$word" == *=* && "$COMP_WORDBREAKS" == *=* ]]; then
    COMPREPLY=("${COMPREPLY[@]#"${word%%=*}="}")
  fi
  [[ "${#COMPREPLY[@]}" == 1 && "${COMPREPLY[0]}" == *= ]] && compopt -o nospace
}
complete -o default -F _uedpo uedpo
"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n" + BASH
CONFIGURED = ("run", "check", "plan", "explain")  # commands that take the keys of a configuration


def completed(arguments: Sequence[str]) -> str:
    """The script of a shell, or, for the script, the words that may follow a line.

    Raises:
        InputError: no such shell.
    """
    match list(arguments):
        case ["bash"]:
            return BASH
        case ["zsh"]:
            return ZSH
        case ["words", line]:
            return "\n".join(words(line))
    raise InputError(f"{' '.join(arguments)[:100] or 'no shell'}: write uedpo completion bash, or zsh")


def words(line: str) -> list[str]:
    """What the last word of a command line may become.

    Args:
        line: all of it up to the cursor, the program's name included.
    """
    _, *given = line.split(" ")
    given, last = [word for word in given[:-1] if word], given[-1] if given else ""
    if not given:
        candidates = list(COMMANDS)
    elif given[0] == "list":
        candidates = [*group_names(), "devices", "config"] if len(given) == 1 else _names(given[1])
    elif given[0] == "completion":
        candidates = ["bash", "zsh"]
    elif given[0] in CONFIGURED:
        candidates = _overrides(last, {word.partition("=")[0].lstrip("+") for word in given})
    else:
        candidates = []
    return [word for word in candidates if word.startswith(last)]


def _names(group: str) -> list[str]:
    return choices_of(group) if group in group_names() else []


def _overrides(last: str, given: set[str]) -> list[str]:
    """Groups and keys, or the files of the group whose value is being written."""
    name, equals, _ = last.lstrip("+").partition("=")
    plus = {group: "" if group in GROUPS else "+" for group in group_names()}
    if equals:
        return [f"{last[: last.index('=')]}={value}" for value in _names(name)]
    keys = {key.name for group in ("config", *GROUPS) for entry in entries(group) for key in entry.keys}
    return [
        *(f"{plus[g]}{g}=" for g in group_names() if g not in given),
        *(f"{k}=" for k in sorted(keys - given)),
    ]


def main() -> int:
    """Entry point: exit code 0, or 2 with a line on what it takes."""
    return answer(__doc__, completed)


if __name__ == "__main__":
    raise SystemExit(main())
