"""Defects that are put into the PTX of a kernel: each of them has to be found, or a run shows nothing."""

import re
from collections.abc import Callable
from typing import NamedTuple

from ptx.cases import draw
from ptx.launches import RECORDER, Settings
from ptx.program import Fault, Instruction, Program

Change = Callable[[Instruction], None]
_ORDERS = 8  # orders of the warps that are tried, where only they can show a defect


class MisplacedDefectError(Exception):
    """The kernel has no such instruction."""


class Defect(NamedTuple):
    """A change of one instruction of a kernel."""

    case: str
    """Name of a case that launches the kernel."""
    kernel: str
    start: str
    """Beginning of the instruction, without its guard."""
    change: Change
    nth: int | None = 0
    """Number among those instructions, from the end where negative; None for each of them."""
    races: bool = True
    """Whether the detector of races is at work."""

    def __call__(self, program: Program) -> None:
        """Put it in."""
        if program.name == self.kernel:
            found = [x for x in program.instructions if re.sub(r"^@\S+ ", "", x.text).startswith(self.start)]
            try:
                chosen = found if self.nth is None else [found[self.nth]]
            except IndexError:
                raise MisplacedDefectError(f"{self.kernel} has {len(found)} instructions {self.start!r}") from None
            for instruction in chosen:
                self.change(instruction)


def leave_out(instruction: Instruction) -> None:
    """Do nothing instead."""
    instruction.op, instruction.args = "nop", []


def clear(instruction: Instruction) -> None:
    """Give 0."""
    instruction.op, instruction.args = "mov.b32", [instruction.args[0], ("imm", 0)]


def pass_through(instruction: Instruction) -> None:
    """Take the first operand for the result."""
    instruction.op, instruction.args = "mov.b32", instruction.args[:2]


def replace(old: str, new: str) -> Change:
    """Do something else instead."""

    def change(instruction: Instruction) -> None:
        assert old in instruction.op, instruction.op
        instruction.op = instruction.op.replace(old, new)

    return change


def move(num_bytes: int) -> Change:
    """Access another address."""

    def change(instruction: Instruction) -> None:
        (place,) = (i for i, x in enumerate(instruction.args) if x[0] == "mem")
        _, base, offset = instruction.args[place]
        instruction.args[place] = ("mem", base, offset + num_bytes)

    return change


def always(instruction: Instruction) -> None:
    """Do it whatever the guard says."""
    assert instruction.guard is not None
    instruction.guard = None


def negate(instruction: Instruction) -> None:
    """Do it where the guard says not to."""
    assert instruction.guard is not None
    instruction.guard = (instruction.guard[0], not instruction.guard[1])


def swap(i: int, j: int) -> Change:
    """Exchange two operands."""

    def change(instruction: Instruction) -> None:
        args = instruction.args
        args[i], args[j] = args[j], args[i]

    return change


def shifted(instruction: Instruction) -> None:
    """Shift by 16 instead of a mask."""
    instruction.op = "shl.b32"
    instruction.args[2] = ("imm", 16)


def from_lane(lane: int) -> Change:
    """Exchange with another lane."""

    def change(instruction: Instruction) -> None:
        instruction.args[2] = ("imm", lane)

    return change


FULL = ("C=5 bf16", "fuzzy_positive_kernel")
TILES = ("C=34 bf16 small, uncapped", "fuzzy_positive_kernel")
STREAMED = ("C=34 bf16 small", "streamed_kernel")
ROWS = ("channels_last C=5 fp32 small", "fuzzy_positive_kernel")
PAIRED_ROWS = ("channels_last C=5 bf16 small, pairs", "fuzzy_positive_kernel")
PAIRS = ("C=19 bf16 small", "fuzzy_positive_kernel")
UPSAMPLED = ("upsampled C=5 small", "upsampled_kernel")
ADJOINT = ("upsampled C=5 small", "column_adjoint_kernel")
LABELS = ("labels uint8 C=5 bf16 small", "cross_entropy_kernel")
CONSISTENCY = ("consistency kl C=5 small", "consistency_kernel")
COUNT = ("count of a mask small", "mean_scale_kernel")
FINISH = ("finish: everything, small", "finish_kernel")
SCALE = ("scale bf16 small", "scale_kernel")
PREDICTION = ("pseudo labels C=5 bf16 small", "pseudo_labels_kernel")
RANKS = ("thresholds by context C=6 fp32 small", "ranks_kernel")
CONTEXT = ("thresholds by context C=6 fp32 small", "context_kernel")

DEFECTS = {
    "the first barrier is left out": Defect(*TILES, "bar.sync", leave_out),
    "the last barrier is left out": Defect(*TILES, "bar.sync", leave_out, -1),
    "a barrier is left out, no detector of races": Defect(*FINISH, "bar.sync", leave_out, 1, races=False),
    "a load of logits moves by two elements": Defect(*FULL, "ld.global", move(4), 3),
    "a load of logits moves by one element": Defect(*FULL, "ld.global", move(2), 3),
    "the last load moves back": Defect(*FULL, "ld.global", move(-4), -1),
    "a store of the gradient moves": Defect(*FULL, "st.global", move(4)),
    "the store of a sum moves": Defect(*FULL, "st.global", move(4), -1),
    "a load without its bounds": Defect(*FULL, "ld.global", always, -1),
    "a store without its bounds": Defect(*FULL, "st.global", always, 1),
    "a store is left out": Defect(*FULL, "st.global", leave_out),
    "a store's guard is negated": Defect(*FULL, "st.global", negate, 2),
    "a comparison of floats turns round": Defect(*FULL, "setp.lt.f32", replace(".lt.", ".gt.")),
    "a member's comparison is strict": Defect(*FULL, "setp.ge.f32", replace(".ge.", ".gt."), 2),
    "a maximum in the network of the ranks": Defect(*FULL, "min.f32", replace("min", "max"), 1),
    "a minimum in the network of the ranks": Defect(*FULL, "max.f32", replace("max", "min")),
    "a shuffle takes another lane": Defect(*FULL, "shfl", from_lane(8), 2),
    "a shuffle is left out": Defect(*FULL, "shfl", pass_through, 2),
    "an exponential of the opposite": Defect(*FULL, "fma.rn.f32", swap(1, 3), 4),
    "a sum is a difference": Defect(*FULL, "add.f32", replace("add", "sub"), -3),
    "a selection turns round": Defect(*FULL, "selp", swap(1, 2), 6),
    "the halves of a pair of slopes are exchanged": Defect(*PAIRS, "cvt.rn.bf16x2", swap(1, 2), 3),
    "the second of a pair of logits is the first": Defect(*PAIRS, "and.b32", shifted, 3),
    "rows: a thread takes another's logits": Defect(*ROWS, "ld.shared", move(8)),
    "rows: words are read before they are written": Defect(*PAIRED_ROWS, "bar.sync", leave_out),
    "rows: a pair of pixels takes another's logits": Defect(*PAIRED_ROWS, "ld.shared", move(4), 2),
    "rows: the halves of a word of the gradient are exchanged": Defect(*PAIRED_ROWS, "cvt.rn.bf16x2", swap(1, 2), 1),
    "rows: a word of the gradient is stored elsewhere": Defect(*PAIRED_ROWS, "st.global", move(4), 1),
    "streamed: a logit of the teacher moves": Defect(*STREAMED, "ld.global", move(4), 3),
    "streamed: a store moves": Defect(*STREAMED, "st.global", move(4), 3),
    "streamed: positives are looked for in no chunk": Defect(*STREAMED, "redux.sync.or", clear),
    "streamed: a positive is not found": Defect(*STREAMED, "setp.eq.b32", replace("setp.eq", "setp.ne"), 20),
    "streamed: a rank is taken for another": Defect(*STREAMED, "max.s32", replace("max", "min"), 0),
    "upsampled: a load moves": Defect(*UPSAMPLED, "ld.global", move(2), 6),
    "upsampled: a row is stored elsewhere": Defect(*UPSAMPLED, "st.global", move(4)),
    "upsampled: a shuffle of the sums is left out": Defect(*UPSAMPLED, "shfl", pass_through),
    "adjoint: a load of the buffer moves": Defect(*ADJOINT, "ld.global", move(4), 12),
    "adjoint: a weight is another column's": Defect(*ADJOINT, "ld.global", move(4), 4),
    "labels: the comparison with the label turns round": Defect(
        *LABELS, "setp.eq", replace("setp.eq", "setp.ne"), None
    ),
    "consistency: a difference is a sum": Defect(*CONSISTENCY, "sub.f32", replace("sub", "add")),
    "count: every thread adds, not one of a program": Defect(*COUNT, "atom", always),
    "count: the counter is not 0 again": Defect(*COUNT, "st.global", leave_out, -1),
    "finish: a barrier is left out": Defect(*FINISH, "bar.sync", leave_out, 1),
    "finish: the loss is stored elsewhere": Defect(*FINISH, "st.global", move(4)),
    "scale: a store moves": Defect(*SCALE, "st.global", move(16)),
    "pseudo labels: a maximum is a minimum": Defect(*PREDICTION, "max.f32", replace("max", "min")),
    "ranks: a store moves": Defect(*RANKS, "st.global", move(4)),
    "context: a look into the table moves": Defect(*CONTEXT, "ld.global", move(-4), -1),
}


class Finding(NamedTuple):
    """Verdict on a kernel with a defect."""

    holds: bool
    """Whether it is seen."""
    report: str


def find(name: str, seed: int) -> Finding:
    """Run a case with a defect, with several orders of the warps, up to the first that shows it."""
    defect = DEFECTS[name]
    case = draw(defect.case, seed)
    for order in range(_ORDERS):
        try:
            with RECORDER.using(Settings(seed=seed + order, mutate=defect, races=defect.races)):
                result = case.run()
        except Fault as fault:
            return Finding(True, str(fault))
        except MisplacedDefectError as error:
            return Finding(False, str(error))
        errors = case.check(result)
        worst = max(errors, key=errors.__getitem__)
        if errors[worst] > 1:
            return Finding(True, f"{worst} is off by {errors[worst]:.3g} of what is allowed")
    return Finding(False, "not seen")
