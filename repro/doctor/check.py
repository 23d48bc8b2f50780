"""One line of `repro doctor`, and how names of persons and machines are kept out of it."""

import getpass
import re
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

OK, NOTE, PROBLEM = "ok", "note", "PROBLEM"


@dataclass(frozen=True)
class Check:
    """What was looked at, how it is (ok, note, or PROBLEM: runs can't work), and what to do next if anything."""

    name: str
    status: str
    text: str
    next_step: str = ""

    def line(self) -> str:
        """The check as one line of text."""
        text = f"{self.text}; next: {self.next_step}" if self.next_step else self.text
        return f"{self.status:<8} {self.name:<12} {' '.join(text.split())}"

    def anonymous(self) -> "Check":
        """The same without the names of user, home folder and host, which people would paste into issues."""
        return replace(self, text=anonymous(self.text), next_step=anonymous(self.next_step))


def anonymous(text: str) -> str:
    """Text with ~ for the home folder, USER for the user's name in a path, and HOST for the machine's."""
    with suppress(RuntimeError):  # nobody knows a home
        home = str(Path.home())
        if len(home) > 1:
            text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # no such user in the system's list, as in some containers
        user = ""
    if user:
        text = re.sub(rf"(?<=/){re.escape(user)}(?![\w.-])", "USER", text)
    host = socket.gethostname()
    if len(host) > 3:
        text = re.sub(rf"(?<![\w.-]){re.escape(host)}(?![\w-])", "HOST", text)
    return text
