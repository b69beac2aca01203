"""Parser of the PTX that Triton emits: one entry function, blocks of its own registers in braces."""

import re

from ptx.program import WIDTHS, Instruction, Operand, Program, Unsupported

_LABEL = re.compile(r"^([A-Za-z_$][\w$]*):\s*(.*)$", re.S)
_FILE = re.compile(r'\s*\.file\s+(\d+)\s+"[^"]*?([^/"]+)"')
_SYMBOL = re.compile(r"\s*(?:\.extern\s+)?\.(shared|global)\s.*?\.b8\s+([\w$]+)\[")
_ADDRESS = re.compile(r"^([%\w$.@]+)\s*(?:([+-])\s*(-?\w+))?$")


def parse(text: str) -> Program:
    """The one entry function of a module."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if re.match(r"\s*\.visible \.entry", line))
    body = next(i for i in range(start, len(lines)) if lines[i].strip().startswith("{"))
    head = "\n".join(lines[start:body])
    symbols = [found for line in lines[:start] if (found := _SYMBOL.match(line))]
    threads = re.search(r"\.(?:reqntid|maxntid)\s+(\d+)", head)
    parameters = re.findall(r"\.param\s+\.(\w+)\s[^,]*?([\w$]+_param_\d+)", head)
    files = {found[1]: found[2] for line in lines if (found := _FILE.match(line))}
    parser = _Body(files)
    for number in range(body, len(lines)):
        if parser.take(re.sub(r"//.*", "", lines[number]).strip(), number + 1):
            break
    return Program(
        re.search(r"\.entry\s+([\w$]+)", head)[1],
        [(name, kind) for kind, name in parameters],
        parser.registers,
        parser.instructions,
        parser.labels,
        {found[2]: found[1] for found in symbols},
        int(threads[1]) if threads else 0,
    )


class _Body:
    """State of the reading of a function's body.

    Args:
        files: Names of source files by their numbers.
    """

    def __init__(self, files: dict[str, str]) -> None:
        self.registers: dict[str, int] = {}
        self.instructions: list[Instruction] = []
        self.labels: dict[str, int] = {}
        self._files = files
        self._source = ""
        self._pending, self._pending_line = "", 0
        self._renamed: list[dict[str, str]] = []  # registers of each open brace
        self._braces = 0

    def take(self, line: str, number: int) -> bool:
        """Read a line without comments; returns whether the body is at its end."""
        if found := re.match(r"\.loc\s+(\d+)\s+(\d+)", line):
            self._source = f"{self._files.get(found[1], found[1])}:{found[2]}"
        if not line or line.startswith((".loc", ".pragma", ".file", ".section")):
            return False
        if not self._pending:
            self._pending_line = number
        self._pending = f"{self._pending} {line}".strip()
        while self._pending and self._step():
            if not self._renamed:
                return True
        return False

    def _step(self) -> bool:
        """Take a brace, label or statement off what is pending; returns whether there was a whole one."""
        text = self._pending
        if text.startswith("{"):
            self._braces += 1
            self._renamed.append({})
            self._pending = text[1:].strip()
        elif text.startswith("}"):
            self._renamed.pop()
            self._pending = text[1:].strip()
        elif found := _LABEL.match(text):
            self.labels[found[1]] = len(self.instructions)
            self._pending = found[2].strip()
        elif ";" in text:
            statement, _, rest = text.partition(";")
            self._pending = rest.strip()
            self._statement(statement.strip())
        else:
            return False
        return True

    def _statement(self, text: str) -> None:
        if text.startswith(".reg"):
            self._declare(text)
        elif text.startswith("."):
            raise Unsupported(f"{text}: no such directive")
        elif text:
            self.instructions.append(self._instruction(text))

    def _declare(self, text: str) -> None:
        found = re.match(r"\.reg\s+\.(\w+)\s+(.*)", text, re.S)
        for item in map(str.strip, found[2].split(",")):
            counted = re.match(r"([%\w$]+)<(\d+)>", item)
            for name in [f"{counted[1]}{i}" for i in range(int(counted[2]))] if counted else [item]:
                unique = name if len(self._renamed) == 1 else f"{name}@{self._braces}"
                self._renamed[-1][name] = unique
                self.registers[unique] = WIDTHS[found[1]]

    def _instruction(self, text: str) -> Instruction:
        guard, statement = None, " ".join(text.split())
        if statement.startswith("@"):
            found = re.match(r"@(!?)([%\w$]+) (.*)", statement)
            guard, statement = (self._rename(found[2]), found[1] == "!"), found[3]
        op, _, operands = statement.partition(" ")
        args = [self._operand(x) for x in _split(operands)]
        return Instruction(op, args, guard, " ".join(text.split()), self._pending_line, self._source)

    def _rename(self, name: str) -> str:
        return next((scope[name] for scope in reversed(self._renamed) if name in scope), name)

    def _operand(self, text: str) -> Operand:
        if text.startswith("{"):
            return "vec", [self._operand(x.strip()) for x in text[1:-1].split(",")]
        if text.startswith("["):
            base, sign, offset = _ADDRESS.match(text[1:-1].strip()).groups()
            return "mem", self._operand(base), int(offset or "0", 0) * (-1 if sign == "-" else 1)
        if "|" in text:
            return "pair", *(self._operand(x) for x in text.split("|"))
        if text.startswith("!"):
            return "not", self._operand(text[1:])
        if re.match(r"^0[fF][0-9a-fA-F]{8}$", text):
            return "float", int(text[2:], 16), 32
        if re.match(r"^0[dD][0-9a-fA-F]{16}$", text):
            return "float", int(text[2:], 16), 64
        if re.match(r"^-?(0[xX][0-9a-fA-F]+|\d+)U?$", text):
            return "imm", int(text.rstrip("U"), 0)
        if text == "_":
            return ("sink",)
        if text in ("true", "false"):
            return "imm", int(text == "true")
        renamed = self._rename(text)
        if renamed in self.registers:
            return "reg", renamed
        return "special" if text.startswith("%") else "sym", text


def _split(text: str) -> list[str]:
    """The operands between commas that no bracket holds."""
    found, depth, now = [], 0, ""
    for letter in text:
        depth += (letter in "{[(") - (letter in "}])")
        if letter == "," and depth == 0:
            found.append(now.strip())
            now = ""
        else:
            now += letter
    return [*found, now.strip()] if now.strip() else found
