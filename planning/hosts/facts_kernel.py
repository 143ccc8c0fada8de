"""Which kernel runs, which boots next, and whether it takes unsigned modules. Pure."""

import re
from dataclasses import dataclass, field
from typing import Literal

from planning.hosts.facts_answers import Answers, why
from stack_configs.schema.facts import Kernel

SecureBoot = Literal["on", "off", "unknown"]


@dataclass
class Entry:
    """An entry of GRUB's menu: a kernel, a submenu, or something else such as the firmware's settings."""

    names: tuple[str, ...]
    """Title and id: either chooses it."""
    kernel: str | None = None
    children: list["Entry"] = field(default_factory=list)


def kernel(answers: Answers) -> Kernel:
    names = answers.lines("kernels", "/boot", absent_is_problem=False)
    installed = [name.removeprefix("vmlinuz-") for name in names]
    return Kernel(
        running=answers.text("kernel", "uname -r").strip(),
        boots=_boots(answers, installed),
        headers=tuple(answers.lines("headers", "/lib/modules")),
    )


def secure_boot(answers: Answers) -> SecureBoot:
    said = answers.raw("secure_boot")
    if "SecureBoot enabled" in said.out:
        return "on"
    if "SecureBoot disabled" in said.out:
        return "off"
    byte = answers.text("secure_boot_byte", "the UEFI variable SecureBoot", absent_is_problem=False).strip()
    found: dict[str, SecureBoot] = {"1": "on", "0": "off", "no UEFI": "off"}
    return found.get(byte, "unknown")


def signing_key(answers: Answers) -> Literal["enrolled", "absent"] | None:
    """Of `mokutil --test-key`; its exit status means the reverse in some versions, so its words decide."""
    answer = answers.raw("signing_key")
    if answer.absent:
        return None
    if "is already enrolled" in answer.out:
        return "enrolled"
    if "is not enrolled" in answer.out or "no key" in answer.out:
        return "absent"
    answers.problem(f"mokutil --test-key: {why(answer)}")
    return None


def _boots(answers: Answers, installed: list[str]) -> str | None:
    """GRUB's choice among the installed kernels, which stand in its order: the newest last."""
    if not installed:
        return None
    menu_lines = answers.text("grub_menu", "GRUB's menu", absent_is_problem=False).splitlines()
    if not menu_lines:
        return installed[-1]  # another boot loader, or a container
    pairs = (line.partition("=") for line in answers.lines("grub_env", "GRUB's environment", absent_is_problem=False))
    env = {key: value for key, _, value in pairs}
    defaults = re.findall(r"^\s*set default=(.*)$", "\n".join(menu_lines), re.MULTILINE)
    chosen = next((d.strip("\"'") for d in reversed(defaults) if "next_entry" not in d), "0")
    if chosen == "${saved_entry}":
        chosen = env.get("saved_entry") or "0"
    chosen = env.get("next_entry") or chosen
    found = _resolve(chosen, menu(menu_lines))
    if found is None:
        answers.problem(f"which kernel boots next: GRUB's choice {chosen!r} names none")
        return installed[-1]
    return found


def menu(lines: list[str]) -> list[Entry]:
    """GRUB's menu from the lines of grub.cfg that start entries and name kernels."""
    top: list[Entry] = []
    last: Entry | None = None
    for line in lines:
        if match := re.match(r"(\s*)(menuentry|submenu)\s", line):
            last = Entry(tuple(re.findall(r"'([^']*)'", line)))
            # grub-mkconfig indents what is inside a submenu.
            (top[-1].children if match[1] and top else top).append(last)
        elif (match := re.match(r"\s*linux\w*\s+\S*vmlinuz-(\S+)", line)) and last is not None:
            last.kernel = match[1]
    return top


def _resolve(chosen: str, entries: list[Entry]) -> str | None:
    """The kernel of an entry that is named by number, title or id, such as `1>2`; GRUB takes the first for no entry."""
    if not entries:
        return None
    name, _, rest = chosen.partition(">")
    if name.isdecimal():
        named = [entry for number, entry in enumerate(entries) if number == int(name)]
    else:
        named = [entry for entry in entries if name in entry.names]
    found = (named or entries)[0]
    return _resolve(rest or "0", found.children) if found.children else found.kernel
